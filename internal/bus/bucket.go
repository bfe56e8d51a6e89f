package bus

import (
	"github.com/nats-io/nats.go/jetstream"
)

const (
	bucketPrefix = "KV_" // of the stream behind a bucket, as all NATS clients have it
	// maxBucketBytes and maxValueBytes bound what a bucket holds.
	maxBucketBytes = 256 << 20
	maxValueBytes  = 128 << 10
)

// KeySubject is the subject of a key of the connection's bucket (Options.Bucket): Publish sets its value, with
// compare-and-set, Last reads it, and a Reader of KeySubject(">") watches all of them. A key of one token is a site's
// name.
func (c *Conn) KeySubject(key string) string { return "$KV." + c.options.Bucket + "." + key }

// wantedBucket is the stream of the connection's bucket.
func (c *Conn) wantedBucket() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              c.options.Config.Stream.Name,
		Description:       "Thalweg " + c.options.Bucket,
		Subjects:          []string{c.KeySubject(">")},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew, // a full bucket refuses, it does not forget
		MaxBytes:          maxBucketBytes,
		MaxMsgSize:        maxValueBytes,
		MaxMsgsPerSubject: 1,
		Replicas:          c.options.Config.Stream.Replicas,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
}
