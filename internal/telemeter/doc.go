// Package telemeter takes what telemeter clients push: the endpoints /authorize and /upload of telemeter-server.
//
// A client shows its own token and its id to /authorize. An authority says whether they belong together: a file, or a
// server elsewhere. The answer holds another token, signed here, that says who the client is. It pushes to /upload with
// that one, every few minutes: metric families in a compressed stream. A push becomes one whole row of the site that
// goes with the id (SiteOf), and is answered with 200 when the row is stored:
//
//	server, err := telemeter.New(telemeter.Options{Config: config, Lanes: hub, Key: key, ...})
//	maps.Copy(handlers, server.Handlers())
//
// Between two pushes nothing is remembered here, so that any hub can take the next one. When a client pushed last is read
// from its lane, which is where the rate limit comes from: only what was taken counts, and it counts at every hub and
// after every restart. The key that signs is the same at all hubs.
//
// A push is judged series by series: what is defective or not wanted is refused, named in the answer and counted, and the
// rest is taken. It is refused as a whole if a series claims to be of somebody else, or if nothing is left of it and that
// is not because nobody wants it. Every refusal that is the client's fault is a 4xx.
//
// It promises that a series which is taken has the client's id under the configured label, whatever the push says; that
// memory is bounded by the limit of a body times the few that are decoded at a time; and that nothing a client sends
// makes a 5xx. It is safe for concurrent use.
//
// It leaves out how rows are stored (Lanes) and what telemeter-server has beside these endpoints: /metrics/v1/receive,
// forwarding to remote write, which is the business of outputs, and its own /metrics.
package telemeter
