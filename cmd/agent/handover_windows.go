package main

// handOver has nothing to do where a file inherits its folder's permissions.
func handOver(string) error { return nil }
