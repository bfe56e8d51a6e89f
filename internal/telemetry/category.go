package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"syscall"
)

// Category is a coarse cause of an error, for use as the value of a metric's label. The set is closed.
type Category string

const (
	Canceled     Category = "canceled"     // we gave up ourselves
	Timeout      Category = "timeout"      // no answer in time
	DNS          Category = "dns"          // a name does not resolve
	Refused      Category = "refused"      // nobody listens there
	Unreachable  Category = "unreachable"  // no way to the host
	Disconnected Category = "disconnected" // the connection ended in the middle
	TLS          Category = "tls"          // certificates and handshakes
	DiskFull     Category = "disk_full"    // no space, or over a quota
	Permission   Category = "permission"   // a file may not be used
	NotFound     Category = "not_found"    // a file is not there
	Other        Category = "other"
)

// Categories lists all categories.
func Categories() []Category {
	return []Category{Canceled, Timeout, DNS, Refused, Unreachable, Disconnected, TLS, DiskFull, Permission, NotFound, Other}
}

// Categorize finds the category of an error from its causes. Nil is Other.
func Categorize(err error) Category {
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case is[*net.DNSError](err): // before timeout: a resolver that does not answer is a matter of DNS
		return DNS
	case errors.Is(err, context.DeadlineExceeded) || timedOut(err):
		return Timeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Unreachable
	case is[*tls.CertificateVerificationError](err), is[x509.UnknownAuthorityError](err),
		is[x509.HostnameError](err), is[x509.CertificateInvalidError](err),
		is[tls.RecordHeaderError](err), is[tls.AlertError](err):
		return TLS
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return DiskFull
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Disconnected
	}
	return Other
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
