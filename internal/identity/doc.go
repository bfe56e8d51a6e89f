// Package identity is who a site is: keys, join tokens, and the registry in which hubs keep them.
//
// At the hub, with a bus connection whose Options.Bucket is the registry's (see Bucket):
//
//	registry := identity.NewRegistry(identity.NewKV(conn), log)
//	secret, expires, err := registry.Invite(ctx, "ams-1", time.Hour, "alice 10.0.0.1:4711")
//	answer := registry.Answer("ams-1", request) // to what arrives on bus.Root.Enrol("ams-1")
//	keys, err := registry.Revoke(ctx, "ams-1", "", "alice 10.0.0.1:4711")
//
// At the site:
//
//	token, err := identity.ParseToken(text)
//	credential, err := (&identity.Enrolment{Dir: dataDir, Logger: log}).Enrol(ctx, token)
//	...
//	login := identity.Login(identity.CredentialFile(dataDir), "ams-1")
//	conn, err := bus.Connect(bus.Options{Config: credential.BusConfig(), Site: "ams-1", Login: login, Logger: log})
//
// In a server that admits clients: a Table, which follows the registry. Where tokens of a file do: ReadTokens.
//
// It promises that private keys do not leave the machine on which they were made; that a join token is good for one
// key, whoever races for it, and only its hash is stored; that who registers a key has it; that a revoked key never
// comes back; and that every change is logged, with an attribute audit that names the event.
//
// What a site may do is not decided here, but by the server that admits it (package natsd, or the signing key of an
// account of an external server).
package identity
