package push

import (
	"encoding/base64"
	"net/url"
	"strings"
)

// groupPath is the path of a group below the URL of a gateway. Without a publisher there is no such label in it.
func groupPath(job, instance, publisher string) string {
	b := append([]byte(nil), "/metrics"...)
	b = appendComponent(b, "job", job)
	b = appendComponent(b, "instance", instance)
	if publisher != "" {
		b = appendComponent(b, "publisher", publisher)
	}
	return string(b)
}

// appendComponent appends a label of a grouping key. What a path cannot have between two slashes, or what servers and
// proxies clean away, is in base64; an empty value is a padding sign without anything to pad.
func appendComponent(dst []byte, label, value string) []byte {
	dst = append(append(dst, '/'), label...)
	switch {
	case value == "":
		return append(dst, "@base64/="...)
	case value == "." || value == ".." || strings.ContainsFunc(value, isUnsafe):
		return base64.RawURLEncoding.AppendEncode(append(dst, "@base64/"...), []byte(value))
	}
	return append(append(dst, '/'), url.PathEscape(value)...)
}

// isUnsafe reports whether there are servers or proxies that take a character for something else even if it is
// percent-encoded.
func isUnsafe(r rune) bool { return r == '/' || r == '\\' || r < ' ' || r == 0x7f }
