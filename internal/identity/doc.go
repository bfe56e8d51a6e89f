// Package identity is who a site is: keys, join tokens, and the registry in which hubs keep them.
//
// At the hub, with a bus connection whose bucket is the registry's (BucketName):
//
//	registry := identity.NewRegistry(identity.NewStore(conn), log)
//	secret, err := registry.Invite(ctx, "ams-1", time.Hour, "alice 10.0.0.1:4711")
//	answer := registry.Answer(ctx, "ams-1", request) // to what arrives on bus.Root.Enrol("ams-1")
//	err = registry.Revoke(ctx, "ams-1", "", "alice 10.0.0.1:4711")
//
// At the site:
//
//	token, err := identity.ParseToken(text)
//	credential, err := identity.Enrol(ctx, identity.Enrolment{Token: token, Dir: dataDir, Logger: log})
//	conn, err := bus.Connect(bus.Options{Site: credential.Site, Login: identity.Login(file), ...})
//
// In a server that admits clients: a Table, which follows the registry.
//
// It promises that private keys do not leave the machine on which they were made; that a join token is good for one
// key, whoever races for it, and only its hash is stored; that who registers a key has it; that a revoked key never
// comes back; and that every change is logged, with an attribute audit that names the event.
//
// What a site may do is not decided here, but by the server that admits it (package natsd, or the signing key of an
// account of an external server).
package identity
