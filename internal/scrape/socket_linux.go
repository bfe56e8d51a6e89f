package scrape

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// socket is a connection whose Read and Write make their system calls without telling the scheduler. What the scheduler
// does about a system call is to wake its monitor thread, which looks every hundred microseconds whether the call hangs
// and costs more than the call. These cannot hang: the descriptor does not block. One goroutine reads and one writes.
type socket struct {
	net.Conn
	raw     syscall.RawConn
	in, out direction
}

// direction is the state of a Read or Write. Its function is made once, so that calls allocate nothing.
type direction struct {
	step  func(fd uintptr) (done bool)
	rest  []byte
	n     int
	errno syscall.Errno
}

// direct returns a connection that does the same as conn with fewer switches between threads, or conn itself if it has
// no descriptor.
func direct(conn net.Conn) net.Conn {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return conn
	}
	s := &socket{Conn: conn, raw: raw}
	s.in.step = func(fd uintptr) bool { return s.in.call(syscall.SYS_READ, fd) }
	s.out.step = func(fd uintptr) bool {
		for s.out.call(syscall.SYS_WRITE, fd) {
			if s.out.errno != 0 || len(s.out.rest) == 0 {
				return true
			}
		}
		return false
	}
	return s
}

// call makes one system call and reports false if it has to wait for the descriptor.
func (t *direction) call(trap, fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.rest))), uintptr(len(t.rest)))
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			t.n += int(n)
			t.rest = t.rest[n:]
		}
		t.errno = errno
		return true
	}
}

// do moves the bytes of p by means of wait, which is Read or Write of the descriptor.
func (t *direction) do(wait func(func(uintptr) bool) error, p []byte) error {
	t.rest, t.n, t.errno = p, 0, 0
	err := wait(t.step)
	t.rest = nil
	if err == nil && t.errno != 0 {
		err = t.errno
	}
	return err
}

func (s *socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	switch err := s.in.do(s.raw.Read, p); {
	case err != nil:
		return 0, s.explain("read", err)
	case s.in.n == 0:
		return 0, io.EOF
	}
	return s.in.n, nil
}

func (s *socket) Write(p []byte) (int, error) {
	err := s.out.do(s.raw.Write, p)
	if err != nil {
		err = s.explain("write", err)
	}
	return s.out.n, err
}

// explain makes an error of a system call one of package net; others are that already.
func (s *socket) explain(op string, err error) error {
	errno, ok := err.(syscall.Errno)
	if !ok {
		return err
	}
	return &net.OpError{
		Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, errno),
	}
}
