package natsd

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/thalweg/thalweg/internal/bus"
)

// The accounts.
const (
	accountSites  = "SITES"
	accountCore   = "CORE"
	accountSystem = "SYS"
	// accountMQTT has the MQTT clients of sites. They need JetStream in their account. Who can name a reply subject, as those
	// of accountSites can, must not have it there: he could have the server send an answer of his making to its API.
	accountMQTT = "MQTT"
)

// mqttStore bounds what the server keeps of MQTT clients: sessions, retained messages, and what QoS 2 holds back. It is no
// more than one mqttPart-th of what JetStream may have. The server reserves it, and does not start where streams have reserved
// everything; so it is there only if MQTT is.
const (
	mqttStore = 256 << 20
	mqttPart  = 8
)

// responseTime is how long a site may take to answer a request.
const responseTime = 5 * time.Second

// accounts builds the accounts from the text that the operator of an external server would write. All that sites
// may reach in CORE is imported by wildcards from one export; doc.go says why. JetStream has store bytes.
func accounts(root bus.Root, stream, domain string, store int64, mqtt bool) ([]*server.Account, error) {
	devices := ""
	if mqtt {
		devices = fmt.Sprintf("jetstream: {max_memory: 0, max_file: %d}", min(mqttStore, store/mqttPart))
	}
	text := fmt.Sprintf(`
		accounts {
			%[1]s {
				jetstream: enabled
				exports: [{service: ">", accounts: [%[2]s, %[5]s]}]
				imports: [{service: {account: %[2]s, subject: %[4]q}}]
			}
			%[5]s {
				%[7]s
				imports: [{service: {account: %[1]s, subject: %[6]q}}]
			}
			%[2]s {
				exports: [{service: %[4]q, accounts: [%[1]s]}]
				imports: [`,
		accountCore, accountSites, accountSystem, root.AllControls(), accountMQTT, root.AllEvents(), devices)
	direct := bus.DirectGetSubject("", stream, root.AllLanes())
	for _, subject := range []string{root.AllLanes(), root.Hellos(), root.AllEvents(), root.Enrols(), direct} {
		text += fmt.Sprintf("{service: {account: %s, subject: %q}}\n", accountCore, subject)
	}
	if domain != "" {
		text += fmt.Sprintf("{service: {account: %s, subject: %q}, to: %q}\n",
			accountCore, direct, bus.DirectGetSubject(domain, stream, root.AllLanes()))
	}
	text += fmt.Sprintf("]}\n%s {}\n}", accountSystem)
	var options server.Options
	if err := options.ProcessConfigString(text); err != nil {
		return nil, fmt.Errorf("set up accounts: %w", err)
	}
	return options.Accounts, nil
}

// sitePermissions is everything a site may do.
func sitePermissions(root bus.Root, stream, domain, site string) *server.Permissions {
	publish := []string{root.Hello(site), root.Events(site), root.Enrol(site)}
	for _, lane := range bus.Lanes() {
		subject := root.Lane(site, lane)
		publish = append(publish, subject, bus.DirectGetSubject("", stream, subject))
		if domain != "" {
			publish = append(publish, bus.DirectGetSubject(domain, stream, subject))
		}
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{bus.InboxPrefix(site) + ".>", root.Controls(site)}},
		Response:  &server.ResponsePermission{MaxMsgs: 1, Expires: responseTime},
	}
}

// mqttPermissions is everything that an MQTT client of a site may do.
func mqttPermissions(root bus.Root, site string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{root.Events(site)}},
		Subscribe: &server.SubjectPermission{Deny: []string{">"}},
	}
}

// joinPermissions is everything that somebody with a join token of a site may do.
func joinPermissions(root bus.Root, site string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{root.Enrol(site)}},
		Subscribe: &server.SubjectPermission{Allow: []string{bus.JoinInboxPrefix(site) + ".>"}},
	}
}
