// Package store holds the last row of every source of every site, in columns, and finds series by their labels.
//
// A row goes in with its place in the order of its site's frames and is copied; families of series come out.
//
//	st, err := store.New(store.Options{Config: store.DefaultConfig()})
//	err = st.Apply("ams-1", store.Rank{Epoch: 1, Frame: 17}, row, now)
//	for family := range st.Select(store.Query{Matchers: sets, Now: now}) {
//		for s := range family.Series() {
//			fmt.Println(s.Name(), s.AppendLabels(nil), s.V, s.T)
//		}
//	}
//
// It promises that an older row never replaces a newer one, whichever arrives first; that no row is stored in part;
// that readers and the writer hold each other up only for the time it takes to copy one row or a thousand series; that
// no site can make an answer unreadable for the others, nor take up the time of all with schemas that come and go; and
// that its memory is bounded by the limits of the sites, at eight bytes a series beside what all sources of one schema
// share: the schema, 88 bytes and the labels for each column, and its index, some 20.
//
// It has no clock: the time comes with each call, and somebody has to call Expire. It keeps one sample per series and
// no history. Where sites disagree on which family a series belongs to (a histogram here, untyped there), both
// families are read, each with its own sites' series. It does not render: package expo writes, package federate answers.
package store
