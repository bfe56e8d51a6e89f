package pipeline

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	minPseudonym = 8
	maxPseudonym = 43 // all of a SHA-256
	minKeyBytes  = 32
	// sourceKey stands for the name of a label in the pseudonym of a source's key. No label has an empty name.
	sourceKey = ""
)

// Anonymizer makes the pseudonyms of one key. It is safe for concurrent use. It never prints its key.
type Anonymizer struct {
	config AnonymizeConfig
	key    []byte
	labels []string // sorted
	macs   sync.Pool
}

// NewAnonymizer returns nil if there is nothing to anonymise. key is the content of a key file.
func NewAnonymizer(c AnonymizeConfig, key []byte) (*Anonymizer, error) {
	if len(c.Labels) == 0 {
		return nil, nil
	}
	key = bytes.Clone(bytes.TrimSpace(key))
	switch {
	case len(key) == 0:
		return nil, errors.New("the file is empty")
	case c.Mode == ModeHMAC && len(key) < minKeyBytes:
		return nil, fmt.Errorf("a key of %d bytes is too short, %d are needed; make one with: openssl rand -hex 32", len(key), minKeyBytes)
	}
	a := &Anonymizer{config: c, key: key, labels: slices.Clone(c.Labels)}
	slices.Sort(a.labels)
	a.macs.New = func() any { return hmac.New(sha256.New, a.key) }
	return a, nil
}

// Labels returns those whose values are replaced, sorted.
func (a *Anonymizer) Labels() []string { return slices.Clone(a.labels) }

// Pseudonym returns what stands for a value of a label. An empty value, which means that the label is not there, stays.
func (a *Anonymizer) Pseudonym(label, value string) string {
	if value == "" {
		return ""
	}
	if a.config.Mode == ModeTelemeter {
		sum := sha256.Sum256(append(bytes.Clone(a.key), value...))
		return base64.RawURLEncoding.EncodeToString(sum[:9])
	}
	return a.mac(label, value)[:a.config.Length]
}

// SourceKey returns what stands for the key of a source, which has parts of its labels and a hash of all in it.
func (a *Anonymizer) SourceKey(key string) string { return "source/" + a.mac(sourceKey, key)[:22] }

func (a *Anonymizer) mac(label, value string) string {
	m := a.macs.Get().(hash.Hash)
	defer a.macs.Put(m)
	m.Reset()
	m.Write([]byte(label))
	m.Write([]byte{0})
	m.Write([]byte(value))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// replace puts pseudonyms into b. It hands every value that it replaced to seen.
func (a *Anonymizer) replace(b *labels.Builder, seen func(label, value string)) {
	for _, name := range a.labels {
		if value := b.Get(name); value != "" {
			if seen != nil {
				seen(name, value)
			}
			b.Set(name, a.Pseudonym(name, value))
		}
	}
}

// exemplar returns one with pseudonyms in its labels.
func (a *Anonymizer) exemplar(e exemplar.Exemplar, seen func(label, value string)) exemplar.Exemplar {
	if slices.ContainsFunc(a.labels, e.Labels.Has) {
		b := labels.NewBuilder(e.Labels)
		a.replace(b, seen)
		e.Labels = b.Labels()
	}
	return e
}
