// What the kernel does with a raw flow's datagrams once its path is proven: it
// gives those from the client or service the addresses of the path, those of the
// peer the addresses of the client or service, and sends them out by the other
// interface. All else, probes above all, goes on to the agent.
//
// `make generated` checks that the object beside is made from this.

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "none"; // no helper that is called asks for the GPL

// addresses as they stand on the wire.
struct addresses {
	__u32 source, destination;
	__u16 source_port, destination_port;
};

// arrival is where a datagram was seen, and under which addresses.
struct arrival {
	struct addresses of;
	__u32 interface;
};

// departure is what becomes of it.
struct departure {
	struct addresses as;
	__u32 interface;
	__u32 largest; // in bytes of payload; what is larger is the agent's to split
	__u8 token[8]; // that the peer's probes carry
	__u8 probed;   // look for probes
	__u8 pad[3];
	__u64 datagrams, bytes; // that went this way; bytes of payload
	__u64 probes;           // that went to the agent
	// Both as they were at the last probe: its answer tells how much had come
	// before it, and the agent may see it late.
	__u64 datagrams_then, bytes_then;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct arrival);
	__type(value, struct departure);
} flows SEC(".maps");

enum {
	// Of Linux 6.6 on, and younger than some distributions' headers.
	PASS_ON = -1, // TCX_NEXT
	DROP = 2,     // TCX_DROP

	AT_IP = ETH_HLEN,
	AT_UDP = AT_IP + sizeof(struct iphdr),
	AT_PAYLOAD = AT_UDP + sizeof(struct udphdr),
	MOST_SEGMENTS = 128, // UDP_MAX_SEGMENTS; GRO merges 64
	PROBE_SIZE = 79,     // proto.ProbeSize, the least
	DONT_FRAGMENT = 0x4000,
};

// is_probe says whether a datagram may be one of the peer's probes: by its first
// byte and the token. The agent finds out whether it really is.
static __always_inline bool is_probe(struct __sk_buff *skb, const struct departure *to, __u32 at)
{
	struct {
		__u8 kind;
		__u8 token[8];
	} head;
	if (bpf_skb_load_bytes(skb, at, &head, sizeof(head)) < 0)
		return false;
	__u64 token, wanted;
	__builtin_memcpy(&token, head.token, sizeof(token));
	__builtin_memcpy(&wanted, to->token, sizeof(wanted));
	return (head.kind == 0x81 || head.kind == 0x82) && token == wanted;
}

// has_probe looks into each datagram of a burst (GSO): the kernel merges what
// follows each other, and the last one may be shorter.
static __always_inline bool has_probe(struct __sk_buff *skb, const struct departure *to, __u32 size, __u32 each)
{
	__u32 at = 0;
	for (int i = 0; i < MOST_SEGMENTS; i++) {
		if (at >= size || size - at < PROBE_SIZE)
			return false;
		if (is_probe(skb, to, AT_PAYLOAD + at))
			return true;
		at += each;
	}
	return at < size;
}

// readdress writes the new addresses. Sums are mended by what changes: the UDP
// one covers the addresses as a pseudo header, which is all that it covers while
// the rest is left to the device (CHECKSUM_PARTIAL), and 0 stays 0.
static __always_inline bool readdress(struct __sk_buff *skb, struct addresses *was, struct addresses *is, __u16 fragment)
{
	__s64 addrs = bpf_csum_diff(&was->source, 8, &is->source, 8, 0);
	__s64 ports = bpf_csum_diff((__be32 *)&was->source_port, 4, (__be32 *)&is->source_port, 4, 0);
	const __u16 whole = bpf_htons(DONT_FRAGMENT);
	const __u32 ip_sum = AT_IP + __builtin_offsetof(struct iphdr, check);
	const __u32 udp_sum = AT_UDP + __builtin_offsetof(struct udphdr, check);

	return bpf_l3_csum_replace(skb, ip_sum, 0, addrs, 0) == 0 &&
	       bpf_l3_csum_replace(skb, ip_sum, fragment, whole, 2) == 0 &&
	       bpf_l4_csum_replace(skb, udp_sum, 0, addrs, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) == 0 &&
	       bpf_l4_csum_replace(skb, udp_sum, 0, ports, BPF_F_MARK_MANGLED_0) == 0 &&
	       bpf_skb_store_bytes(skb, AT_IP + __builtin_offsetof(struct iphdr, frag_off), &whole, 2, 0) == 0 &&
	       bpf_skb_store_bytes(skb, AT_IP + __builtin_offsetof(struct iphdr, saddr), &is->source, 8, 0) == 0 &&
	       bpf_skb_store_bytes(skb, AT_UDP, &is->source_port, 4, 0) == 0;
}

SEC("tcx")
int forward(struct __sk_buff *skb)
{
	void *begin = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = begin + AT_IP;
	struct udphdr *udp = begin + AT_UDP;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return PASS_ON;
	if (begin + AT_PAYLOAD > end) {
		// Others' programs may have the headers elsewhere; ours read them in place.
		if (bpf_skb_pull_data(skb, AT_PAYLOAD) < 0)
			return PASS_ON;
		begin = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		ip = begin + AT_IP;
		udp = begin + AT_UDP;
		if (begin + AT_PAYLOAD > end)
			return PASS_ON;
	}
	if (ip->version != 4 || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
	    (ip->frag_off & ~bpf_htons(DONT_FRAGMENT)) != 0)
		return PASS_ON;

	struct arrival from = {
		.of = {ip->saddr, ip->daddr, udp->source, udp->dest},
		.interface = skb->ifindex,
	};
	struct departure *to = bpf_map_lookup_elem(&flows, &from);
	if (!to)
		return PASS_ON;

	// An Ethernet frame may be longer than what it holds. A burst's total is whole.
	__u32 total = bpf_ntohs(ip->tot_len), each = skb->gso_size, count = 1;
	if (total < AT_PAYLOAD - AT_IP || total + AT_IP > skb->len)
		return PASS_ON;
	__u32 size = total - (AT_PAYLOAD - AT_IP);
	if (each == 0 || each >= size)
		each = size;
	else
		count = (size + each - 1) / each;
	if (each > to->largest)
		return PASS_ON;
	if (to->probed && has_probe(skb, to, size, each)) {
		__sync_fetch_and_add(&to->probes, 1);
		to->datagrams_then = to->datagrams;
		to->bytes_then = to->bytes;
		return PASS_ON;
	}

	__u16 fragment = ip->frag_off;
	struct addresses as = to->as;
	if (!readdress(skb, &from.of, &as, fragment))
		return DROP; // half written; it takes a kernel without memory
	__sync_fetch_and_add(&to->datagrams, count);
	__sync_fetch_and_add(&to->bytes, size);
	return bpf_redirect_neigh(to->interface, NULL, 0, 0);
}
