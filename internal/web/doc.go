// Package web is the HTTP side of a process: the listener, the status page, the JSON API, and the paths that every
// Prometheus-like program has. Handlers of other packages are given to it.
//
//	server, err := web.New(web.Options{
//		ListenAddress: "127.0.0.1:9797",
//		Logger:        log,
//		Gatherer:      metrics,
//		Health:        health,
//		Reload:        reload,
//		Handlers:      map[string]http.Handler{"/federate": federate},
//		Status:        web.Status{Sites: sites, Targets: targets},
//	})
//	...
//	err = server.Run(ctx) // the listener has been bound by New
//
// It promises that the listener is bound before Run, that a slow or silent client holds nothing but its connection,
// and that the page needs nothing from elsewhere and no JavaScript. What is shown comes from functions that return
// copies; it keeps no state of its own.
package web
