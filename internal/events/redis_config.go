package events

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/config"
)

// RedisConfig is the list of a Redis server that senders push to.
type RedisConfig struct {
	// HOST:PORT, several with commas between them, of which the first that answers is used; or a connection string as
	// StackExchange.Redis has it: HOST:PORT,password=...,ssl=true. Where the keys below say something, they count.
	Address string `yaml:"address"`
	// Name of a user. Empty: the default user.
	Username string `yaml:"username"`
	// Password of the user, or a file that holds it.
	Password config.Secret `yaml:"password"`
	// File with the password of the user.
	PasswordFile string `yaml:"password_file"`
	// Present: connect by TLS.
	TLSConfig *config.TLSConfig `yaml:"tls_config"`
	// Number of the database.
	Database int `yaml:"database"`
	// Key of the list. Senders LPUSH; the oldest element is the one on the right.
	Key string `yaml:"key"`
	// How many workers the metrics of prom-stream-gateway tell. There is one reader whatever it says, so that events are
	// taken in order.
	Workers int `yaml:"workers"`
	// How many events are read at a time, at least. prom-stream-gateway takes just as many; here pages are larger, and
	// events wait in Redis until they count.
	PopCount int `yaml:"pop_count"`
	// List to which elements that cannot be taken are pushed; it keeps the last 1000. Empty: they are only counted.
	DeadLetterKey string `yaml:"dead_letter_key"`
	// This gateway is one of several that stand in for each other: what they count is kept in Redis beside the events, one at
	// a time takes them and shows it, and another one goes on if that one dies. Redis needs room for four times the state.
	Replicas bool `yaml:"replicas"`
}

// DefaultRedisConfig is what an absent key means.
func DefaultRedisConfig() RedisConfig {
	return RedisConfig{Address: "localhost:6379", Key: "prom-stream-gateway:metric-queue", Workers: 2, PopCount: 25}
}

// UnmarshalYAML decodes over the defaults.
func (c *RedisConfig) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultRedisConfig()
	type plain RedisConfig
	return unmarshal((*plain)(c))
}

const (
	maxWorkers = 64
	maxPop     = 100_000
)

// Validate reports everything that is wrong, each error beginning with the key.
func (c *RedisConfig) Validate() error {
	_, err := parseConnection(c.Address)
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("redis.address: %w", err))
	}
	if c.Password != "" && c.PasswordFile != "" {
		errs = append(errs, errors.New("redis.password_file: password says it already; remove one"))
	}
	if c.Database < 0 {
		errs = append(errs, fmt.Errorf("redis.database: %d is negative", c.Database))
	}
	if c.Key == "" {
		errs = append(errs, errors.New("redis.key: is empty"))
	}
	if c.DeadLetterKey != "" && c.DeadLetterKey == c.Key {
		errs = append(errs, errors.New("redis.dead_letter_key: is the key of the queue, where what cannot be taken would come again without end"))
	}
	if c.Workers < 1 || c.Workers > maxWorkers {
		errs = append(errs, fmt.Errorf("redis.workers: %d is not between 1 and %d", c.Workers, maxWorkers))
	}
	if c.PopCount < 1 || c.PopCount > maxPop {
		errs = append(errs, fmt.Errorf("redis.pop_count: %d is not between 1 and %d", c.PopCount, maxPop))
	}
	if c.TLSConfig != nil {
		if err := c.TLSConfig.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("redis.tls_config: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Servers are the addresses of a valid configuration, each HOST:PORT, without what a connection string says beside them.
func (c *RedisConfig) Servers() string {
	o, err := parseConnection(c.Address)
	if err != nil {
		return ""
	}
	return strings.Join(o.endpoints, ", ")
}

// connection is what a connection string says.
type connection struct {
	endpoints      []string // host:port
	user, password string
	clientName     string
	tls            bool
	tlsHost        string
	database       int
	connectTimeout time.Duration
	timeout        time.Duration // of an answer
}

const (
	defaultRedisPort = "6379"
	defaultTLSPort   = "6380" // of StackExchange.Redis
	redisTimeout     = 5 * time.Second
)

// parseConnection reads a connection string of StackExchange.Redis. Names of options are told from addresses by their
// equals sign; their case does not matter.
func parseConnection(s string) (*connection, error) {
	c := &connection{clientName: "thalweg", connectTimeout: redisTimeout, timeout: redisTimeout}
	var hosts []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, value, option := strings.Cut(part, "=")
		if !option {
			hosts = append(hosts, part)
		} else if err := c.option(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	for _, host := range hosts {
		endpoint, err := c.endpoint(host)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, endpoint)
	}
	if len(c.endpoints) == 0 {
		return nil, errors.New("names no HOST:PORT")
	}
	return c, nil
}

func (c *connection) endpoint(host string) (string, error) {
	port := defaultRedisPort
	if c.tls {
		port = defaultTLSPort
	}
	if strings.Contains(host, "://") {
		return "", errors.New("is a URL; write HOST:PORT")
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || h == "" {
			return "", fmt.Errorf("%q is not HOST:PORT", host)
		}
		return host, nil
	}
	if strings.Count(host, ":") == 1 {
		return "", fmt.Errorf("%q is not HOST:PORT", host)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

// option sets what an option says. Those without which the same events are read are passed over; others are refused.
func (c *connection) option(name, value string) (err error) {
	milliseconds := func(to *time.Duration) error {
		n, err := strconv.ParseUint(value, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("option %s: %q is no number of milliseconds", name, value)
		}
		*to = time.Duration(n) * time.Millisecond
		return nil
	}
	switch name {
	case "password":
		c.password = value
	case "user":
		c.user = value
	case "name":
		c.clientName = value
	case "ssl":
		if c.tls, err = strconv.ParseBool(strings.ToLower(value)); err != nil {
			return fmt.Errorf("option ssl: %q is neither true nor false", value)
		}
	case "sslhost":
		c.tlsHost = value
	case "defaultdatabase":
		if c.database, err = strconv.Atoi(value); err != nil || c.database < 0 {
			return fmt.Errorf("option defaultDatabase: %q is no number of a database", value)
		}
	case "connecttimeout":
		return milliseconds(&c.connectTimeout)
	case "synctimeout", "asynctimeout", "responsetimeout":
		return milliseconds(&c.timeout)
	case "abortconnect", "allowadmin", "keepalive", "connectretry", "resolvedns", "configcheckseconds", "writebuffer", "version",
		"channelprefix", "configchannel", "tiebreaker", "preserveasyncorder", "highprioritysocketthreads", "setclientlibrary":
	default:
		return fmt.Errorf("option %s of StackExchange.Redis is not there", name)
	}
	return nil
}

// connect completes what the address says with the keys beside it.
func (c *RedisConfig) connect() (*connection, error) {
	o, err := parseConnection(c.Address)
	if err != nil {
		return nil, fmt.Errorf("redis address: %w", err)
	}
	if c.Username != "" {
		o.user = c.Username
	}
	if c.Password != "" {
		o.password = string(c.Password)
	}
	if c.PasswordFile != "" {
		data, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read redis password: %w", err)
		}
		o.password = strings.TrimSpace(string(data))
	}
	if c.Database != 0 {
		o.database = c.Database
	}
	return o, nil
}
