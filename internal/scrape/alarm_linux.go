package scrape

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

const clockMonotonic = 1 // CLOCK_MONOTONIC

// fdAlarm is an alarm of the kernel, whose file descriptor the runtime waits for as for a socket. The runtime waits for
// timers of its own in whole milliseconds: it wakes up too early, then too late, and between the two its monitor thread
// runs every hundred microseconds. For a target that is a third of what a scrape costs.
type fdAlarm struct {
	file *os.File
	raw  syscall.RawConn
	arm  func(fd uintptr) (done bool)

	// Of the wait under way:
	after time.Duration // what is to be set; zero: it is set
	errno syscall.Errno // of setting it
	ticks [8]byte
}

// timerSetting is struct itimerspec.
type timerSetting struct{ interval, value syscall.Timespec }

// newAlarm returns an alarm of the kernel, or one of the runtime where file descriptors are scarce.
func newAlarm() alarm {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return newTimerAlarm()
	}
	a := &fdAlarm{file: os.NewFile(fd, "timerfd")}
	var err error
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.close()
		return newTimerAlarm()
	}
	a.arm = a.step
	return a
}

func (a *fdAlarm) wait(d time.Duration) bool {
	a.after, a.errno = max(d, 1), 0
	if err := a.raw.Read(a.arm); err != nil {
		_ = a.file.SetReadDeadline(time.Time{}) // the interrupt has been heard; a closed file answers the next wait
		return false
	}
	return a.errno == 0
}

// step sets the alarm when it is called first and asks whether it went off from then on. It is set here, not in wait,
// because the runtime forgets what it knows of the file before the first call.
func (a *fdAlarm) step(fd uintptr) (done bool) {
	if a.after > 0 {
		setting := timerSetting{value: syscall.NsecToTimespec(int64(a.after))}
		a.after = 0
		_, _, a.errno = syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&setting)), 0, 0, 0)
		return a.errno != 0
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&a.ticks)), unsafe.Sizeof(a.ticks))
	return errno != syscall.EAGAIN && errno != syscall.EINTR
}

func (a *fdAlarm) interrupt() { _ = a.file.SetReadDeadline(time.Unix(1, 0)) }

func (a *fdAlarm) close() { _ = a.file.Close() }
