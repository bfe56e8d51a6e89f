package natsmon

import (
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// addJetStream adds what a server says of JetStream, and keeps its streams for addStreams.
func (b *builder) addJetStream(s *Server, own labels) {
	if s.JetStream == nil {
		return
	}
	record(b, enabledTable, own, s.JetStream)
	if s.JetStream.Disabled {
		return
	}
	record(b, jetStreamTable, own, s.JetStream)
	if s.Disk != nil {
		record(b, diskTable, own, s.Disk)
	}
	if m := s.JetStream.Meta; m != nil {
		record(b, metaTable, own, meta{m, s.Name})
		if m.Leader == s.Name {
			addReplicas(b, metaReplicaTable, own, m.Replicas)
		}
	}
	failed := unwritable(s.Health[healthOfAll])
	for _, a := range s.JetStream.AccountDetails {
		account := b.account(s, a.Name, a.Id)
		owned := own.with("account", account)
		b.addAccountUse(s, account, a)
		for i := range a.Streams {
			d := &a.Streams[i]
			if failed != nil {
				record(b, copyTable, owned.with("stream", d.Name), failed[[2]string{a.Id, d.Name}])
			}
			b.addStream(account, sight{s, a, d})
		}
	}
}

var enabledTable = []metric[*server.JSInfo]{
	gauge("nats_jetstream_enabled", "Whether JetStream runs on the server.",
		func(j *server.JSInfo) float64 { return truth(!j.Disabled) }),
}

var diskTable = []metric[*Disk]{
	gauge("nats_jetstream_filesystem_free_bytes",
		"Bytes left in the file system of the store; only of the server in this process.",
		func(d *Disk) float64 { return float64(d.Free) }),
	gauge("nats_jetstream_filesystem_size_bytes",
		"Bytes that the file system of the store has, free and used; only of the server in this process.",
		func(d *Disk) float64 { return float64(d.Size) }),
}

// jetStreamTable is of a server on which JetStream runs.
var jetStreamTable = []metric[*server.JSInfo]{
	gauge("nats_jetstream_storage_used_bytes", "Bytes of streams in files.",
		func(j *server.JSInfo) float64 { return float64(j.Store) }),
	gauge("nats_jetstream_storage_reserved_bytes", "Bytes in files that are promised to accounts and streams; absent if that is without limit.",
		func(j *server.JSInfo) float64 { return reserved(j.ReservedStore) }),
	gauge("nats_jetstream_storage_limit_bytes", "Bytes that streams may have in files; absent if there is no limit.",
		func(j *server.JSInfo) float64 { return storageLimit(j.Config.MaxStore) }),
	gauge("nats_jetstream_memory_used_bytes", "Bytes of streams in memory.",
		func(j *server.JSInfo) float64 { return float64(j.Memory) }),
	gauge("nats_jetstream_memory_reserved_bytes", "Bytes in memory that are promised to accounts and streams.",
		func(j *server.JSInfo) float64 { return reserved(j.ReservedMemory) }),
	gauge("nats_jetstream_memory_limit_bytes", "Bytes that streams may have in memory.",
		func(j *server.JSInfo) float64 { return limit(j.Config.MaxMemory) }),
	gauge("nats_jetstream_accounts", "Accounts that use JetStream.",
		func(j *server.JSInfo) float64 { return float64(j.Accounts) }),
	gauge("nats_jetstream_streams", "Streams of which this server has a copy.",
		func(j *server.JSInfo) float64 { return float64(j.Streams) }),
	gauge("nats_jetstream_streams_led", "Streams that this server leads.",
		func(j *server.JSInfo) float64 { return float64(j.StreamsLeader) }),
	gauge("nats_jetstream_consumers", "Consumers of which this server has a copy.",
		func(j *server.JSInfo) float64 { return float64(j.Consumers) }),
	gauge("nats_jetstream_consumers_led", "Consumers that this server leads.",
		func(j *server.JSInfo) float64 { return float64(j.ConsumersLeader) }),
	gauge("nats_jetstream_messages", "Messages of all streams of which this server has a copy.",
		func(j *server.JSInfo) float64 { return float64(j.Messages) }),
	gauge("nats_jetstream_message_bytes", "Bytes of the messages of all streams of which this server has a copy.",
		func(j *server.JSInfo) float64 { return float64(j.Bytes) }),
	gauge("nats_jetstream_ha_assets", "Streams and consumers with several replicas, one of them on this server.",
		func(j *server.JSInfo) float64 { return float64(j.HAAssets) }),
	gauge("nats_jetstream_ha_assets_limit", "Most streams and consumers with several replicas that a server may have; absent if there is no limit.",
		func(j *server.JSInfo) float64 {
			if j.Limits == nil {
				return absent
			}
			return limit(int64(j.Limits.MaxHAAssets))
		}),
	counter("nats_jetstream_api_requests_total", "Requests to JetStream's API.",
		func(j *server.JSInfo) float64 { return float64(j.API.Total) }),
	counter("nats_jetstream_api_errors_total", "Requests to JetStream's API that were refused.",
		func(j *server.JSInfo) float64 { return float64(j.API.Errors) }),
	gauge("nats_jetstream_api_inflight", "Requests to JetStream's API that are being served.",
		func(j *server.JSInfo) float64 { return float64(j.API.Inflight) }),
	gauge("nats_jetstream_api_level", "Version of JetStream's API that the server has.",
		func(j *server.JSInfo) float64 { return float64(j.API.Level) }),
}

// reserved is n, and absent if what was promised is to have no limit.
func reserved(n uint64) float64 {
	if n == 0 {
		return 0
	}
	return storageLimit(n)
}

// noStorage is more than any disk has. Thalweg gives it to servers whose configuration has no limit, since JetStream needs one.
const noStorage = 1 << 50

// storageLimit is limit of bytes, and absent for as many as nobody has.
func storageLimit[N int64 | uint64](n N) float64 {
	if n >= noStorage {
		return absent
	}
	return limit(n)
}

// meta is what a server says of the group that all servers with JetStream are in.
type meta struct {
	*server.MetaClusterInfo
	server string
}

var metaTable = []metric[meta]{
	gauge("nats_jetstream_meta_leader", "Whether this server leads all servers with JetStream.",
		func(m meta) float64 { return truth(m.Leader == m.server) }),
	gauge("nats_jetstream_meta_leader_known", "Whether this server knows of a leader: without one nothing can be made or changed.",
		func(m meta) float64 { return truth(m.Leader != "") }),
	gauge("nats_jetstream_meta_cluster_size", "Servers with JetStream, as this server knows.",
		func(m meta) float64 { return float64(m.Size) }),
	gauge("nats_jetstream_meta_quorum", "Servers with JetStream that have to agree on a change; absent if the server does not say.",
		func(m meta) float64 { return positive(float64(m.QuorumNeeded)) }),
	gauge("nats_jetstream_meta_pending", "Requests to JetStream's API that wait to be handled by this server.",
		func(m meta) float64 { return float64(m.Pending) }),
	gauge("nats_jetstream_meta_snapshot_pending_entries", "Changes to streams and consumers since the last snapshot of what there is.",
		func(m meta) float64 {
			return ofSnapshot(m, func(s *server.MetaSnapshotStats) float64 { return float64(s.PendingEntries) })
		}),
	gauge("nats_jetstream_meta_snapshot_pending_bytes", "Bytes of the changes since the last snapshot.",
		func(m meta) float64 {
			return ofSnapshot(m, func(s *server.MetaSnapshotStats) float64 { return float64(s.PendingSize) })
		}),
	gauge("nats_jetstream_meta_snapshot_timestamp_seconds", "When the last snapshot was made.",
		func(m meta) float64 {
			return ofSnapshot(m, func(s *server.MetaSnapshotStats) float64 { return timestamp(s.LastTime) })
		}),
	gauge("nats_jetstream_meta_snapshot_duration_seconds", "How long the last snapshot took.",
		func(m meta) float64 {
			return ofSnapshot(m, func(s *server.MetaSnapshotStats) float64 { return positive(s.LastDuration.Seconds()) })
		}),
}

func ofSnapshot(m meta, field func(*server.MetaSnapshotStats) float64) float64 {
	if m.Snapshot == nil {
		return absent
	}
	return field(m.Snapshot)
}

// addReplicas adds the followers that a leader has.
func addReplicas(b *builder, t []metric[*server.PeerInfo], leader labels, replicas []*server.PeerInfo) {
	for _, r := range replicas {
		record(b, t, leader.with("peer", peerName(r)), r)
	}
}

// peerName is the name of a server, or its ID as long as the leader does not know its name and says so in a sentence.
func peerName(p *server.PeerInfo) string {
	if p.Name == "" || strings.Contains(p.Name, "peerID") {
		return p.Peer
	}
	return p.Name
}

var (
	metaReplicaTable   = replicaMetrics("nats_jetstream_meta_replica")
	streamReplicaTable = replicaMetrics("nats_stream_replica")
)

// replicaMetrics are what a leader says of a follower.
func replicaMetrics(prefix string) []metric[*server.PeerInfo] {
	return []metric[*server.PeerInfo]{
		gauge(prefix+"_lag", "Operations that the follower is behind its leader.",
			func(p *server.PeerInfo) float64 { return float64(p.Lag) }),
		gauge(prefix+"_current", "Whether the follower has all that its leader has, and was heard of recently.",
			func(p *server.PeerInfo) float64 { return truth(p.Current) }),
		gauge(prefix+"_offline", "Whether the follower's server is gone.",
			func(p *server.PeerInfo) float64 { return truth(p.Offline) }),
		gauge(prefix+"_last_seen_seconds", "How long ago the leader heard of the follower; absent if it never did.",
			func(p *server.PeerInfo) float64 {
				if p.Active <= 0 && !p.Current {
					return absent
				}
				return max(0, p.Active).Seconds()
			}),
	}
}

// seconds of a duration that is negative if there is none.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return absent
	}
	return d.Seconds()
}
