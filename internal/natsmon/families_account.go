package natsmon

import (
	"cmp"
	"maps"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// addAccounts adds what a server counts for each account.
func (b *builder) addAccounts(s *Server, own labels) {
	if s.Accounts == nil {
		return
	}
	sorted := slices.SortedFunc(slices.Values(s.Accounts.Accounts), func(x, y *server.AccountStat) int { return cmp.Compare(x.Account, y.Account) })
	for _, a := range sorted {
		record(b, accountTable, own.with("account", b.account(s, a.Name, a.Account)), a)
	}
}

// account is the label of an account: its name, or its ID if another account of the cluster has that name.
func (b *builder) account(s *Server, name, id string) string {
	if name == "" {
		return id
	}
	scope := s.Cluster
	if scope == "" {
		scope = s.ID
	}
	key := [2]string{scope, name}
	if first, there := b.accounts[key]; !there {
		b.accounts[key] = id
	} else if first != id {
		return id
	}
	return name
}

var accountTable = []metric[*server.AccountStat]{
	gauge("nats_account_connections", "Open connections of clients of the account.",
		func(a *server.AccountStat) float64 { return float64(a.Conns) }),
	gauge("nats_account_leafs", "Open leaf connections of the account.",
		func(a *server.AccountStat) float64 { return float64(a.LeafNodes) }),
	gauge("nats_account_subscriptions", "Subscriptions in the account.",
		func(a *server.AccountStat) float64 { return float64(a.NumSubs) }),
	messages("nats_account_messages_total", "Messages of the account on all connections of this server.", "received",
		func(a *server.AccountStat) float64 { return float64(a.Received.Msgs) }),
	messages("nats_account_messages_total", "Messages of the account on all connections of this server.", "sent",
		func(a *server.AccountStat) float64 { return float64(a.Sent.Msgs) }),
	messages("nats_account_payload_bytes_total", "Bytes of headers and bodies of messages of the account on all connections of this server.", "received",
		func(a *server.AccountStat) float64 { return float64(a.Received.Bytes) }),
	messages("nats_account_payload_bytes_total", "Bytes of headers and bodies of messages of the account on all connections of this server.", "sent",
		func(a *server.AccountStat) float64 { return float64(a.Sent.Bytes) }),
	counter("nats_account_slow_consumers_total", "Connections of the account closed because they did not take what was to be sent to them.",
		func(a *server.AccountStat) float64 { return float64(a.SlowConsumers) }),
}

// addAccountUse takes what a server says of the account's part of JetStream. What it says of a cluster is of all servers, as far
// as it has heard of the others: one that was started a moment ago has not. So the highest value counts.
func (b *builder) addAccountUse(s *Server, account string, a *server.AccountDetail) {
	key := streamKeyOf(s, account, "")
	u := b.accountUse[key]
	if u == nil {
		u = &server.AccountDetail{}
		b.accountUse[key] = u
	}
	u.Store, u.Memory = max(u.Store, a.Store), max(u.Memory, a.Memory)
	u.ReservedStore, u.ReservedMemory = max(u.ReservedStore, a.ReservedStore), max(u.ReservedMemory, a.ReservedMemory)
	u.API = a.API // which is of use where there is one server
}

// addAccountUses adds what servers say in common of accounts' parts of JetStream.
func (b *builder) addAccountUses() {
	for _, key := range slices.SortedFunc(maps.Keys(b.accountUse), streamKey.compare) {
		record(b, accountUseTable, key.labels(), b.accountUse[key])
		if key.cluster == "" {
			record(b, accountAPITable, key.labels(), b.accountUse[key])
		}
	}
}

var accountUseTable = []metric[*server.AccountDetail]{
	gauge("nats_account_jetstream_storage_used_bytes", "Bytes of all copies of the account's streams in files, on all servers of the cluster and of those that gateways join to it.",
		func(a *server.AccountDetail) float64 { return float64(a.Store) }),
	gauge("nats_account_jetstream_storage_limit_bytes", "Bytes that the account may keep in files, all copies together; absent if there is no limit.",
		func(a *server.AccountDetail) float64 { return storageLimit(a.ReservedStore) }),
	gauge("nats_account_jetstream_memory_used_bytes", "Bytes of all copies of the account's streams in memory, on all servers of the cluster and of those that gateways join to it.",
		func(a *server.AccountDetail) float64 { return float64(a.Memory) }),
	gauge("nats_account_jetstream_memory_limit_bytes", "Bytes that the account may keep in memory, all copies together; absent if there is no limit.",
		func(a *server.AccountDetail) float64 { return limit(a.ReservedMemory) }),
}

// accountAPITable is of a server alone. In a cluster a server has the sum of those that run: it goes back when one restarts.
var accountAPITable = []metric[*server.AccountDetail]{
	counter("nats_account_jetstream_api_requests_total", "Requests of the account to JetStream's API; absent in a cluster, of which there is no count that only grows.",
		func(a *server.AccountDetail) float64 { return float64(a.API.Total) }),
	counter("nats_account_jetstream_api_errors_total", "Requests of the account to JetStream's API that were refused; absent in a cluster.",
		func(a *server.AccountDetail) float64 { return float64(a.API.Errors) }),
}
