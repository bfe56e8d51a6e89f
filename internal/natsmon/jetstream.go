package natsmon

import (
	"github.com/nats-io/nats-server/v2/server"
)

// jetStreamOptions are what Jsz is asked for. Followers are asked too, not the leaders of streams alone: the leader of a
// consumer can be a follower of its stream.
func jetStreamOptions(offset, limit int) server.JSzOptions {
	return server.JSzOptions{
		Accounts: true, Streams: true, Consumer: true, DirectConsumer: true, Config: true, RaftGroups: true,
		Offset: offset, Limit: limit,
	}
}

// accountsPerPage is how many accounts Jsz is asked for at a time.
const accountsPerPage = 256

// readJetStream puts all pages of accounts into one, at most limit accounts. With an error after the first page there is
// what could be read, in part, and it is left to nobody: half of the streams would look as if the rest had gone.
func readJetStream(limit int, page func(server.JSzOptions) (*server.JSInfo, error)) (*server.JSInfo, error) {
	all, err := page(jetStreamOptions(0, min(accountsPerPage, limit)))
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, a := range all.AccountDetails {
		known[a.Id] = true
	}
	for offset := len(all.AccountDetails); offset < min(all.Total, limit); {
		next, err := page(jetStreamOptions(offset, min(accountsPerPage, limit-offset)))
		if err != nil {
			return nil, err
		}
		if len(next.AccountDetails) == 0 {
			break // accounts went away meanwhile
		}
		offset += len(next.AccountDetails)
		for _, a := range next.AccountDetails {
			if !known[a.Id] { // accounts that came meanwhile shift the pages
				known[a.Id] = true
				all.AccountDetails = append(all.AccountDetails, a)
			}
		}
	}
	return all, nil
}
