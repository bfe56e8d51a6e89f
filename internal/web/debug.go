package web

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"
)

// debugLanes shows all lanes as a table of text, for people at a terminal.
func debugLanes(o *Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "VIEW\tSITE\tLANE\tEPOCH/FRAME\tSEQUENCE\tLAST FRAME\tLAST KEYFRAME\tBACKLOG\tSKEW\tSTATE\tLAST ERROR")
		now := time.Now()
		for _, l := range call(o.status(r).Lanes) {
			frame, skew := "-", "-"
			if l.Epoch != "" {
				frame = fmt.Sprintf("%s/%d", l.Epoch, l.Number)
			}
			if l.SkewSeconds != nil {
				skew = fmt.Sprintf("%+.1f s", *l.SkewSeconds)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d rows\t%s\t%s\t%s\n", l.Role, l.Site, l.Lane, frame, l.Sequence,
				since(now, l.LastFrame), since(now, l.LastKeyframe), l.Backlog, skew, l.State, lastError(now, &l))
		}
		_ = t.Flush() // an error means that the client is gone
	})
}

func since(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ago(now, t)
}

// lastError is one line, whatever a site made of it.
func lastError(now time.Time, l *Lane) string {
	if l.LastError == "" {
		return "-"
	}
	text := strings.Join(strings.Fields(l.LastError), " ")
	if l.LastErrorAt.IsZero() {
		return cmp.Or(text, "-")
	}
	return fmt.Sprintf("%s: %s", ago(now, l.LastErrorAt), text)
}
