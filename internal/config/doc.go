// Package config reads the configuration file.
//
// It joins the Config of every component into one file, decodes it strictly, fills in defaults and checks it. It knows
// YAML so that no other package has to.
//
//	c, err := config.Load("thalweg.yml", "")
//	if err != nil {
//		return err // every mistake of the file, each with line, column and key
//	}
//	if c.Edge != nil { ... } // a section that is present turns its role on
//
// It promises that a file is taken whole or not at all, that every mistake in it is reported at once, and that a key
// which this version does not implement is refused. What Prometheus defines (durations, sizes, relabelling, scrape
// jobs, TLS) is decoded and checked by Prometheus' own code.
//
// It does not look at the files that a configuration names (certificates, tokens), except match_file: their owners
// read them when they need them.
package config

//go:generate go run ./gendoc
