package natsd

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"
)

// CheckConfigFile reports what is wrong with a file in the syntax of nats-server, and where its block metrics asks for the
// metrics of the server to be served: HOST:PORT, or "" if there is no such block.
func CheckConfigFile(file string) (metrics string, err error) {
	_, metrics, err = readConfigFile(file)
	return metrics, err
}

// readConfigFile reads a file in the syntax of nats-server as strictly as that does, but for a block
//
//	metrics { port: 9100 }
//
// at its top, which is ours. nats-server reads the file itself, so that includes, variables and every form of the syntax
// mean the same; it refuses our block as it does any that it does not know, after it has taken the rest.
func readConfigFile(file string) (_ *server.Options, metrics string, err error) {
	tree, err := conf.ParseFileWithChecks(file)
	if err != nil {
		return nil, "", fmt.Errorf("read config_file %q: %w", file, err)
	}
	options := &server.Options{}
	mistakes := mistakesOf(options.ProcessConfigFile(file))
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		t, ok := tree[key].(token)
		if !ok {
			continue
		}
		// What nats-server does not take for a mistake is a name that is used elsewhere in the file, as $metrics.
		refused := slices.IndexFunc(mistakes, func(err error) bool {
			return err.Error() == fmt.Sprintf("%s: unknown field %q", place(t), key)
		})
		if refused < 0 {
			continue
		}
		switch block, isBlock := t.Value().(map[string]any); {
		case strings.EqualFold(key, "metrics"):
			mistakes = slices.Delete(mistakes, refused, refused+1)
			if metrics != "" {
				mistakes = append(mistakes, fmt.Errorf("%s: metrics is there twice", place(t)))
			}
			if metrics, err = metricsAddress(t); err != nil {
				mistakes = append(mistakes, err)
			}
		case strings.EqualFold(key, "server") && isBlock && len(block) > 0:
			mistakes[refused] = fmt.Errorf("%s: nats-server has no block server: write its keys (%s) at the top of the file",
				place(t), strings.Join(slices.Sorted(maps.Keys(block)), ", "))
		}
	}
	if len(mistakes) > 0 {
		return nil, "", fmt.Errorf("read config_file %q: %w", file, errors.Join(mistakes...))
	}
	return options, metrics, nil
}

// mistakesOf takes an error of nats-server apart, and leaves its warnings out.
func mistakesOf(err error) []error {
	if several, ok := errors.AsType[interface {
		error
		Errors() []error
	}](err); ok {
		return slices.Clone(several.Errors())
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// token is a value in a file, which knows where its key stands.
type token interface {
	Value() any
	Line() int
	Position() int
	SourceFile() string
	IsUsedVariable() bool
}

// place is where the key of a value stands, as nats-server writes it.
func place(t token) string { return fmt.Sprintf("%s:%d:%d", t.SourceFile(), t.Line(), t.Position()) }

// written is a value so that one sees whether it is a text.
func written(t token) string {
	if s, ok := t.Value().(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(t.Value())
}

// metricsAddress reads the block metrics: HOST:PORT, where no host means all addresses, as nats-server has it.
func metricsAddress(t token) (string, error) {
	block, ok := t.Value().(map[string]any)
	if !ok {
		return "", fmt.Errorf("%s: metrics is no block; write metrics { port: 9100 }", place(t))
	}
	var (
		host string
		port int64
		errs []error
	)
	for _, key := range slices.Sorted(maps.Keys(block)) {
		t, ok := block[key].(token)
		if !ok {
			continue
		}
		switch strings.ToLower(key) {
		case "host":
			if host, ok = t.Value().(string); !ok {
				errs = append(errs, fmt.Errorf("%s: metrics.host: %s is not a host", place(t), written(t)))
			}
		case "port":
			if port, ok = t.Value().(int64); !ok || port != server.RANDOM_PORT && (port < 1 || port >= 1<<16) {
				errs = append(errs, fmt.Errorf("%s: metrics.port: %s is not a port", place(t), written(t)))
			}
		default:
			if !t.IsUsedVariable() {
				errs = append(errs, fmt.Errorf("%s: unknown field %q of metrics, which has port and host", place(t), key))
			}
		}
	}
	if len(errs) == 0 && port == 0 {
		errs = append(errs, fmt.Errorf("%s: metrics has no port", place(t)))
	}
	return net.JoinHostPort(host, strconv.FormatInt(max(port, 0), 10)), errors.Join(errs...)
}
