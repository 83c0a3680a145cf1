package gateway

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The service that it offers.
const wanIP = "urn:schemas-upnp-org:service:WANIPConnection:1"

// searched answers M-SEARCH.
func (g *Gateway) searched(_ netip.AddrPort, q []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	text := string(q)
	const igd = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
	if !strings.HasPrefix(text, "M-SEARCH * HTTP/1.1\r\n") || !strings.Contains(text, "ST: "+igd+"\r\n") {
		return nil
	}
	g.note("search")
	location := g.options.Location
	if location == "" {
		location = fmt.Sprintf("http://%v:%d/desc.xml", g.host.Addr(), httpPort)
	}
	return []byte("HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: " + igd + "\r\nUSN: uuid:1::" + igd +
		"\r\nEXT:\r\nSERVER: test UPnP/1.1\r\nLOCATION: " + location + "\r\n\r\n")
}

// page answers HTTP.
func (g *Gateway) page(w http.ResponseWriter, r *http.Request) {
	if o := g.now(); o.Page != nil && o.Page(w, r) {
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/desc.xml":
		_, _ = io.WriteString(w, description)
	case r.Method == http.MethodPost && r.URL.Path == "/ctl/IPConn":
		g.act(w, r)
	default:
		http.NotFound(w, r)
	}
}

const description = `<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/ctl/L3F</controlURL></service></serviceList>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>` + wanIP + `</serviceType><controlURL>/ctl/IPConn</controlURL></service></serviceList></device></deviceList>
</device></deviceList></device></root>`

// arguments are those of AddPortMapping and DeletePortMapping.
type arguments struct {
	Body struct {
		Action struct {
			XMLName  xml.Name
			External string `xml:"NewExternalPort"`
			Internal string `xml:"NewInternalPort"`
			Client   string `xml:"NewInternalClient"`
			Protocol string `xml:"NewProtocol"`
			Lease    string `xml:"NewLeaseDuration"`
			Text     string `xml:"NewPortMappingDescription"`
		} `xml:",any"`
	} `xml:"Body"`
}

// act does an action.
func (g *Gateway) act(w http.ResponseWriter, r *http.Request) {
	var a arguments
	if err := xml.NewDecoder(r.Body).Decode(&a); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	action := a.Body.Action.XMLName.Local
	if r.Header.Get("SOAPAction") != `"`+wanIP+"#"+action+`"` {
		upnpError(w, 401)
		return
	}
	body, code := "", 0
	switch action {
	case "GetExternalIPAddress":
		body = "<NewExternalIPAddress>" + g.external().String() + "</NewExternalIPAddress>"
	case "AddPortMapping":
		code = g.add(a)
	case "DeletePortMapping":
		code = g.delete(a)
	case "GetSpecificPortMappingEntry":
		body, code = g.specific(a)
	default:
		code = 401
	}
	if code != 0 {
		upnpError(w, code)
		return
	}
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>`+
		`<u:%sResponse xmlns:u="%s">%s</u:%sResponse></s:Body></s:Envelope>`, action, wanIP, body, action)
}

func upnpError(w http.ResponseWriter, code int) {
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>`+
		`<faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0">`+
		`<errorCode>%d</errorCode><errorDescription>no</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code)
}

func (g *Gateway) add(a arguments) (code int) {
	external, err1 := strconv.ParseUint(a.Body.Action.External, 10, 16)
	internal, err2 := strconv.ParseUint(a.Body.Action.Internal, 10, 16)
	lease, err3 := strconv.ParseUint(a.Body.Action.Lease, 10, 32)
	client, err4 := netip.ParseAddr(a.Body.Action.Client)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || external == 0 || internal == 0 {
		g.note("upnp invalid")
		return 402
	}
	k := key{a.Body.Action.Protocol == "TCP", netip.AddrPortFrom(client, uint16(internal))}
	switch {
	case g.options.OnlyPermanent && lease != 0:
		g.note("upnp lease")
		return 725
	case g.taken(k, uint16(external)):
		g.note("upnp conflict")
		return 718
	}
	g.note("upnp add")
	if e := g.held[k]; e != nil && e.external != uint16(external) {
		g.remove(k)
	}
	g.hold(k, uint16(external), time.Duration(lease)*time.Second)
	g.held[k].text = a.Body.Action.Text
	return 0
}

// specific tells of one mapping.
func (g *Gateway) specific(a arguments) (body string, code int) {
	for k, e := range g.held {
		if strconv.Itoa(int(e.external)) == a.Body.Action.External && k.tcp == (a.Body.Action.Protocol == "TCP") {
			return fmt.Sprintf("<NewInternalPort>%d</NewInternalPort><NewInternalClient>%v</NewInternalClient><NewEnabled>1</NewEnabled>"+
				"<NewPortMappingDescription>%s</NewPortMappingDescription><NewLeaseDuration>0</NewLeaseDuration>", k.internal.Port(), k.internal.Addr(), e.text), 0
		}
	}
	return "", 714
}

func (g *Gateway) delete(a arguments) (code int) {
	for k, e := range g.held {
		if strconv.Itoa(int(e.external)) == a.Body.Action.External && k.tcp == (a.Body.Action.Protocol == "TCP") {
			g.note("upnp delete")
			g.remove(k)
			return 0
		}
	}
	return 714
}
