package telemeter

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxID bounds the id of a client, in bytes, as telemeter-server bounds the values of labels.
const maxID = maxLabelBytes

// hashedPrefix begins the names of sites that stand for ids which are no such names.
const hashedPrefix = "x-"

// maxSiteName is checked apart of the expression, which would be compiled into as many copies at every start.
const maxSiteName = 64

var (
	siteName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	hashing  = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// SiteOf is the name of the site as which a client pushes: its id, or a hash where that cannot be a part of a subject or
// looks like a hash. The id itself travels as a label.
func SiteOf(id string) string {
	if len(id) <= maxSiteName && siteName.MatchString(id) && !strings.HasPrefix(id, hashedPrefix) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hashedPrefix + strings.ToLower(hashing.EncodeToString(sum[:]))
}

// checkID says what is wrong with an id, which a client may choose.
func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("the parameter id is missing")
	case len(id) > maxID:
		return fmt.Errorf("the id has %d bytes, at most %d are allowed", len(id), maxID)
	case !utf8.ValidString(id):
		return fmt.Errorf("the id is not valid UTF-8")
	}
	return nil
}
