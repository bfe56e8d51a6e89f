package bus

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// Parts is the number of parts that sites are spread over. It is part of the subject grammar and never changes.
const Parts = 64

// MaxSiteLength bounds the name of a site, in bytes.
const MaxSiteLength = 64

// DefaultRoot is the first token of all subjects unless nats.subject_root says otherwise.
const DefaultRoot Root = "thalweg"

// version is the second token of all subjects.
const version = "v1"

// Lane names one of the two lanes of a site.
type Lane string

// The lanes of a site.
const (
	Live     Lane = "live"
	Backfill Lane = "backfill"
)

// Lanes lists both.
func Lanes() []Lane { return []Lane{Live, Backfill} }

// ValidSite returns an error that quotes the name unless it is one to sixty-four of [A-Za-z0-9_-]. Everything that
// becomes a token of a subject passes through here.
func ValidSite(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("site name is empty")
	case len(name) > MaxSiteLength:
		return fmt.Errorf("site name %q has %d characters, at most %d are allowed", name, len(name), MaxSiteLength)
	}
	for _, c := range []byte(name) {
		if !isTokenByte(c) {
			return fmt.Errorf("site name %q has a character other than A-Z, a-z, 0-9, _ and -", name)
		}
	}
	return nil
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// PartOf is the part of a site: FNV-1a 32 of its name, modulo Parts.
func PartOf(site string) int {
	h := fnv.New32a()
	h.Write([]byte(site))
	return int(h.Sum32() % Parts)
}

// Root is the first token of all subjects, and the grammar that follows it:
//
//	<root>.v1.lane.<part>.<site>.live      frames, in the stream
//	<root>.v1.lane.<part>.<site>.backfill  frames, in the stream
//	<root>.v1.ctl.<site>.<random>          requests to an edge
//	<root>.v1.hello.<site>                 requests to hubs
//	<root>.v1.events.<site>                events, in a stream of their own
//	<root>.v1.hubs                         hubs among themselves
//	<root>.v1.enrol.<site>                 requests to hubs, about the keys of a site
//
// A root may itself have several tokens; Config.Validate checks it.
type Root string

// Lane is the subject of a lane of a site, whose name must be valid.
func (r Root) Lane(site string, lane Lane) string {
	return r.under("lane") + strconv.Itoa(PartOf(site)) + "." + site + "." + string(lane)
}

// AllLanes is the wildcard over all lanes, which the stream captures.
func (r Root) AllLanes() string { return r.under("lane") + ">" }

// LanesOfPart is the wildcard over the live or backfill lanes of all sites of one part.
func (r Root) LanesOfPart(part int, lane Lane) string {
	return r.under("lane") + strconv.Itoa(part) + ".*." + string(lane)
}

// ParseLane is the inverse of Lane. A subject whose part is not its site's is an error: only a client with more
// rights than a site has can have made it.
func (r Root) ParseLane(subject string) (site string, lane Lane, err error) {
	rest, ok := strings.CutPrefix(subject, r.under("lane"))
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 3 {
		return "", "", fmt.Errorf("parse subject %q: not a lane of root %q", subject, string(r))
	}
	site, lane = tokens[1], Lane(tokens[2])
	if err := ValidSite(site); err != nil {
		return "", "", fmt.Errorf("parse subject %q: %w", subject, err)
	}
	if lane != Live && lane != Backfill {
		return "", "", fmt.Errorf("parse subject %q: unknown lane %q", subject, string(lane))
	}
	if want := strconv.Itoa(PartOf(site)); tokens[0] != want {
		return "", "", fmt.Errorf("parse subject %q: part is %s, site %q belongs to %s", subject, tokens[0], site, want)
	}
	return site, lane, nil
}

// Hello is the subject on which a site greets the hubs.
func (r Root) Hello(site string) string { return r.under("hello") + site }

// Hellos is the wildcard over the hellos of all sites, which hubs serve.
func (r Root) Hellos() string { return r.under("hello") + "*" }

// ParseHello is the inverse of Hello.
func (r Root) ParseHello(subject string) (site string, err error) {
	site, ok := strings.CutPrefix(subject, r.under("hello"))
	if !ok {
		return "", fmt.Errorf("parse subject %q: not a hello of root %q", subject, string(r))
	}
	if err := ValidSite(site); err != nil {
		return "", fmt.Errorf("parse subject %q: %w", subject, err)
	}
	return site, nil
}

// Enrol is the subject on which a site, or who has a join token of it, presents a new key to the hubs.
func (r Root) Enrol(site string) string { return r.under("enrol") + site }

// Enrols is the wildcard over the enrolments of all sites, which hubs serve.
func (r Root) Enrols() string { return r.under("enrol") + "*" }

// ParseEnrol is the inverse of Enrol.
func (r Root) ParseEnrol(subject string) (site string, err error) {
	site, ok := strings.CutPrefix(subject, r.under("enrol"))
	if !ok {
		return "", fmt.Errorf("parse subject %q: not an enrolment of root %q", subject, string(r))
	}
	if err := ValidSite(site); err != nil {
		return "", fmt.Errorf("parse subject %q: %w", subject, err)
	}
	return site, nil
}

// NewControl makes a control subject that only this process and those it tells can know: 128 random bits. An edge
// serves exactly that subject and names it in its hello.
func (r Root) NewControl(site string) string { return r.under("ctl") + site + "." + rand.Text() }

// Controls is the wildcard over the control subjects of a site.
func (r Root) Controls(site string) string { return r.under("ctl") + site + ".*" }

// ParseControl tells the site of a control subject. Hubs check with it that a hello does not name another site's.
func (r Root) ParseControl(subject string) (site string, err error) {
	rest, ok := strings.CutPrefix(subject, r.under("ctl"))
	site, random, _ := strings.Cut(rest, ".")
	if !ok || random == "" {
		return "", fmt.Errorf("parse subject %q: not a control subject of root %q", subject, string(r))
	}
	for _, token := range []string{site, random} {
		if err := ValidSite(token); err != nil {
			return "", fmt.Errorf("parse subject %q: %w", subject, err)
		}
	}
	return site, nil
}

// Events is the subject of a site's events.
func (r Root) Events(site string) string { return r.under("events") + site }

// ParseEvents is the inverse of Events and of AllEvents, of which the site is "".
func (r Root) ParseEvents(subject string) (site string, err error) {
	site, ok := strings.CutPrefix(subject, r.under("events"))
	switch {
	case !ok:
		return "", fmt.Errorf("parse subject %q: not one of events of root %q", subject, string(r))
	case site == "*":
		return "", nil
	}
	if err := ValidSite(site); err != nil {
		return "", fmt.Errorf("parse subject %q: %w", subject, err)
	}
	return site, nil
}

// Hubs is the subject on which hubs tell each other that they are there. Sites do not reach it.
func (r Root) Hubs() string { return string(r) + "." + version + ".hubs" }

// AllControls is the wildcard over the control subjects of all sites.
func (r Root) AllControls() string { return r.under("ctl") + "*.*" }

// AllEvents is the wildcard over the events of all sites.
func (r Root) AllEvents() string { return r.under("events") + "*" }

func (r Root) under(kind string) string { return string(r) + "." + version + "." + kind + "." }

// InboxPrefix is where the answers to a site's requests arrive; it is the only such place the site may listen on.
func InboxPrefix(site string) string { return "_INBOX_" + site }

// JoinInboxPrefix is InboxPrefix for who has no more than a join token of a site: nothing of the site arrives there.
func JoinInboxPrefix(site string) string { return "_JOIN." + site }

// DirectGetSubject is the API subject of the last message of a subject, within a JetStream domain unless that is "".
func DirectGetSubject(domain, stream, subject string) string {
	return apiPrefix(domain) + "DIRECT.GET." + stream + "." + subject
}

func apiPrefix(domain string) string {
	if domain == "" {
		return "$JS.API."
	}
	return "$JS." + domain + ".API."
}
