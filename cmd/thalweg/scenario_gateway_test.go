package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdRedis has a Redis server carry out a command until it answers as it should.
func cmdRedis(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) > 2, "redis ADDRESS ANSWER COMMAND ARGUMENTS...")
	var command strings.Builder
	fmt.Fprintf(&command, "*%d\r\n", len(args)-2)
	for _, a := range args[2:] {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(a), a)
	}
	eventually(ts, func() error {
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write([]byte(command.String())); err != nil {
			return err
		}
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if answer = strings.TrimRight(answer, "\r\n"); err == nil && answer != args[1] {
			err = fmt.Errorf("redis %s: %s, want %s", strings.Join(args[2:], " "), answer, args[1])
		}
		return err
	})
}
