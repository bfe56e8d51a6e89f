package remotewrite

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// maxBatchBytes bounds what waits for a Flush, before compression.
	maxBatchBytes = 64 << 20
	// maxBatchRows bounds the rows of which a Flush has something to tell.
	maxBatchRows = 100_000
	// maxCacheBytes bounds what a sender remembers of series.
	maxCacheBytes = 256 << 20
	// maxConflicts bounds the schemas of which a sender remembers whether they have the site label.
	maxConflicts = 10_000
)

// Sender is one feed to a receiver: rows in their order, in batches. It serves one output, once; its methods are called
// one at a time. It meets hub.Destination.
type Sender struct {
	w        *Writer
	backfill bool
	metrics  *senderMetrics

	// settings and message are those that the shards encode for.
	settings  *settings
	message   writeproto.Message
	shards    []*shard
	conflicts map[columns]error

	rows     int // since the last Flush
	samples  int
	origins  []sentRow // by row
	before   int       // samples since the sender began, without those since the last Flush
	resumed  bool
	refusals []refusal    // of rows that were not even encoded
	metadata time.Time    // when the next is due
	newest   atomic.Int64 // in ms
}

// columns are all that is said of the labels of a row.
type columns struct {
	source *series.Source
	schema *series.Schema
}

// refusal is a row of which samples will never get to the receiver.
type refusal struct {
	row, samples int
	reason       Loss
	why          string
}

// NewSender returns a sender, for rows of the backfill lanes or those of the live ones.
func (w *Writer) NewSender(backfill bool) *Sender {
	lane := "live"
	if backfill {
		lane = "backfill"
	}
	return &Sender{w: w, backfill: backfill, metrics: w.metrics.of(w.name, lane)}
}

// begin makes the shards encode for what is in force. Nothing waits in them.
func (s *Sender) begin() {
	current, message := s.w.current()
	if current == s.settings && message == s.message {
		return
	}
	s.settings, s.message, s.conflicts = current, message, nil
	s.shards = s.shards[:0]
	for range current.config.QueueConfig.MaxShards {
		s.shards = append(s.shards, &shard{sender: s, encoder: current.encoder(message), suspects: map[uint64]*suspect{}})
	}
	s.metrics.shards.Set(float64(len(s.shards)))
}

// Row takes a row of a site. It is not kept.
func (s *Sender) Row(site string, row *series.Row) {
	if s.rows == 0 {
		s.begin()
	}
	number := s.rows
	s.rows++
	d := xxhash.NewWithSeed(xxhash.Sum64String(site))
	d.WriteString(row.Source.Key)
	source := d.Sum64()
	s.origins = append(s.origins, sentRow{site, source, row.T})
	switch {
	case row.End: // what has ended got its markers; the encoder forgets it
	case s.backfill && s.settings.outOfOrder == DropOutOfOrder:
		s.refuse(number, row, LossDropped, "out_of_order is drop")
		return
	case s.settings.tooOld(row.T, s.w.now()):
		s.refuse(number, row, LossTooOld, "older than sample_age_limit")
		return
	default:
		if err := s.conflict(row); err != nil {
			s.refuse(number, row, LossSiteLabel, err.Error())
			return
		}
	}
	// All rows of a source go through one shard, whose requests go out one after the other.
	s.shards[source%uint64(len(s.shards))].encoder.Add(site, number, row)
	n := row.Samples()
	s.samples += n
	s.metrics.pending.Add(float64(n))
}

// conflict returns what the store says of a row that has the site label. It looks at every column, once.
func (s *Sender) conflict(row *series.Row) error {
	rules := &s.settings.store
	if rules.OnConflict != store.Reject {
		return nil
	}
	of := columns{row.Source, row.Schema}
	err, known := s.conflicts[of]
	if !known {
		if s.conflicts == nil || len(s.conflicts) >= maxConflicts {
			s.conflicts = map[columns]error{}
		}
		err = rules.CheckConflict(row)
		s.conflicts[of] = err
	}
	return err
}

func (s *Sender) refuse(number int, row *series.Row, reason Loss, why string) {
	s.refusals = append(s.refusals, refusal{number, row.Samples(), reason, why})
}

// Resume says that the output has delivered before: what was under way when it ended may come again, and may have arrived.
func (s *Sender) Resume() { s.resumed = true }

// mayRepeat reports whether the receiver may have rows of this batch: those of the one batch that was under way when the
// last run of the output ended. They come first.
func (s *Sender) mayRepeat() bool {
	return s.resumed && !s.backfill && s.before < s.fullSamples()
}

// fullSamples is how many samples are enough for every shard to send a request.
func (s *Sender) fullSamples() int {
	return len(s.shards) * s.settings.config.QueueConfig.MaxSamplesPerSend
}

// Full reports whether there is enough for every shard to send a request.
func (s *Sender) Full() bool {
	if s.rows == 0 {
		return false
	}
	if s.samples >= s.fullSamples() || s.rows >= maxBatchRows {
		return true
	}
	bytes := 0
	for _, sh := range s.shards {
		bytes += sh.encoder.Stats().PendingBytes
	}
	return bytes >= maxBatchBytes
}

// Flush sends what waits and returns when all of it is answered for good; it tries for ever. Refused is called for every
// row of which samples were lost, once. The only error is that of ctx.
func (s *Sender) Flush(ctx context.Context, refused func(row, samples int, why string)) (done bool, err error) {
	if s.rows == 0 {
		return true, nil
	}
	defer s.clear()
	var sending sync.WaitGroup
	for _, sh := range s.shards {
		if requests := sh.encoder.Close(); len(requests) > 0 {
			sending.Go(func() { sh.send(ctx, requests) })
		}
	}
	sending.Wait()
	for _, sh := range s.shards {
		if sh.err != nil {
			return false, sh.err
		}
		s.refusals = append(s.refusals, sh.refusals...)
	}
	s.countLost()
	s.countRepeated()
	s.tell(refused)
	s.sendMetadata(ctx)
	return true, nil
}

// clear makes room for the next batch.
func (s *Sender) clear() {
	s.metrics.pending.Set(0)
	s.before += s.samples
	s.rows, s.samples, s.origins = 0, 0, s.origins[:0]
	s.refusals = s.refusals[:0]
	cached := 0
	for _, sh := range s.shards {
		sh.err, sh.refusals, sh.repeated = nil, sh.refusals[:0], repetition{}
		sh.forgetSuspects(s.w.now())
		cached += sh.encoder.Stats().Bytes
	}
	s.metrics.cached.Set(float64(cached))
}

// tell reports the refusals, in the order of rows, those of one row together.
func (s *Sender) tell(refused func(row, samples int, why string)) {
	slices.SortStableFunc(s.refusals, func(a, b refusal) int { return cmp.Compare(a.row, b.row) })
	for i := 0; i < len(s.refusals); {
		r := s.refusals[i]
		s.metrics.failed[r.reason].Add(float64(r.samples))
		for i++; i < len(s.refusals) && s.refusals[i].row == r.row; i++ {
			s.metrics.failed[s.refusals[i].reason].Add(float64(s.refusals[i].samples))
			r.samples += s.refusals[i].samples
		}
		refused(r.row, r.samples, r.why)
	}
}

// newestTaken notes the time of a row, in ms, that the receiver has taken. Safe for concurrent use.
func (s *Sender) newestTaken(ms int64) {
	for {
		old := s.newest.Load()
		if ms <= old {
			return
		}
		if s.newest.CompareAndSwap(old, ms) {
			s.metrics.newest.Set(float64(ms) / 1000)
			return
		}
	}
}

// countLost counts what the encoders could not express.
func (s *Sender) countLost() {
	for _, sh := range s.shards {
		stats := sh.encoder.Stats()
		s.metrics.failed[LossCustomBuckets].Add(float64(stats.CustomBuckets - sh.customBuckets))
		s.metrics.failed[LossNativeHistograms].Add(float64(stats.Histograms - sh.histograms))
		sh.customBuckets, sh.histograms = stats.CustomBuckets, stats.Histograms
	}
}

// countRepeated counts what was refused and may have arrived before, and says so.
func (s *Sender) countRepeated() {
	var sum repetition
	for _, sh := range s.shards {
		sum.samples += sh.repeated.samples
		sum.words = cmp.Or(sh.repeated.words, sum.words)
	}
	if sum.samples == 0 {
		return
	}
	s.metrics.repeated.Add(float64(sum.samples))
	s.w.log.Warn("receiver refuses samples that were under way when this output ended last; they may have arrived then, and are no gap",
		"samples", sum.samples, "answer", sum.words)
}

// sendMetadata sends what 1.0 says apart of samples, if it is time to. Nothing depends on it: what does not get through
// is said again at the next time.
func (s *Sender) sendMetadata(ctx context.Context) {
	c := &s.settings.config.MetadataConfig
	if s.backfill || !c.Send || s.message != writeproto.V1 || s.w.now().Before(s.metadata) {
		return
	}
	s.metadata = s.w.now().Add(time.Duration(c.SendInterval))
	encoders := make([]*writeproto.Encoder, len(s.shards))
	for i, sh := range s.shards {
		encoders[i] = sh.encoder
	}
	for _, r := range writeproto.MetadataRequests(c.MaxSamplesPerSend, encoders...) {
		if a := s.shards[0].post(ctx, s.w.settings.Load(), &r, 0); a.verdict != verdictTaken {
			return
		}
		s.metrics.metadata.Add(float64(r.Metadata))
	}
}
