// Package puppetca gets a certificate for this machine from a Puppet CA, and renews it, in the directory layout that
// Puppet's own agent has:
//
//	layout := puppetca.Layout{Dir: "/etc/puppetlabs/puppet/ssl", Identity: "ams-1.example.org"}
//	c := puppetca.Client{Address: "puppet:8140", Layout: layout, Fingerprint: "AB:CD:..."}
//	err := c.Enrol(ctx)
//
// It promises that the CA's certificate is believed only if its fingerprint was given, it was there before, or the caller
// said to trust what the network shows first; that nothing is asked of a server before that; that an interrupted
// enrolment goes on where it stopped; that no file is there half; and that a certificate is kept only if it belongs to the
// key and comes from the CA.
//
// Source of the protocol: Puppet's CA API (puppet-ca/v1).
package puppetca
