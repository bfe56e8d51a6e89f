package node

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/thalweg/thalweg/internal/hub"
)

// group is one target group of Prometheus' HTTP service discovery.
type group struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// discoverHubs serves /sd/hubs: the hubs that Prometheus should take from, so that it gets every series once. It answers
// 503 when that is not known, upon which Prometheus keeps the targets that it has.
func (r *hubRole) discoverHubs(w http.ResponseWriter, _ *http.Request) {
	picked, _, err := r.hub.Serving()
	if err != nil {
		http.Error(w, "which hubs are there: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	groups := []group{}
	for _, p := range picked {
		groups = append(groups, hubGroup(p))
	}
	writeGroups(w, groups)
}

// discoverSites serves /sd/sites: each site that the sender of the request may read, as a target at the hub to take it
// from.
func (n *Node) discoverSites(w http.ResponseWriter, req *http.Request) {
	picked, _, err := n.hub.hub.Serving()
	if err != nil {
		http.Error(w, "which hubs are there: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	groups := []group{}
	for _, site := range n.narrow(req, n.webStatus()).Sites() {
		for _, p := range picked {
			if !p.Parts.Has(site.Part) {
				continue
			}
			g := hubGroup(p)
			g.Labels["__meta_thalweg_site"] = site.Name
			g.Labels["__meta_thalweg_site_state"] = site.State
			g.Labels["__meta_thalweg_site_expected"] = strconv.FormatBool(site.Expected)
			groups = append(groups, g)
		}
	}
	writeGroups(w, groups)
}

// hubGroup is a hub as a target whose /federate is scraped.
func hubGroup(p hub.Peer) group {
	g := group{Targets: []string{p.URL}, Labels: map[string]string{
		"__metrics_path__":     "/federate",
		"__meta_thalweg_hub":   p.Name,
		"__meta_thalweg_parts": p.Parts.String(),
	}}
	if u, err := url.Parse(p.URL); err == nil && u.Host != "" {
		g.Targets[0] = u.Host
		g.Labels["__scheme__"] = u.Scheme
		g.Labels["__metrics_path__"] = u.Path + "/federate"
	}
	return g
}

func writeGroups(w http.ResponseWriter, groups []group) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(groups) // an error means that the client is gone
}

// outsideURL is how others reach a listener: its address, or the name of this host if it listens on all addresses.
func outsideURL(scheme string, listener net.Addr) string {
	host, port, _ := net.SplitHostPort(listener.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return scheme + net.JoinHostPort(host, port)
}
