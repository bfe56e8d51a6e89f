package telemeter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/s2"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"
)

// snappyBlock is the largest block of the framing format of snappy.
const snappyBlock = 64 << 10

// readBody reads the body of a push, which has to be smaller than limit when it is decompressed. It never holds more.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	// What does not become smaller by compression grows a little, and padding has no end.
	raw := http.MaxBytesReader(w, r.Body, limit+limit/8+snappyBlock)
	var content io.Reader = raw
	switch encoding := r.Header.Get("Content-Encoding"); {
	case strings.EqualFold(encoding, "snappy"):
		content = s2.NewReader(raw, s2.ReaderMaxBlockSize(snappyBlock))
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return nil, refuse(http.StatusUnsupportedMediaType, resultMalformed, "Content-Encoding is %s; snappy (framing format) or none is taken", quoted(encoding))
	}
	body, err := io.ReadAll(io.LimitReader(content, limit))
	if _, beyond := errors.AsType[*http.MaxBytesError](err); beyond || int64(len(body)) >= limit {
		return nil, refuse(http.StatusRequestEntityTooLarge, resultTooLarge, "the push has to be smaller than %d bytes, decompressed", limit)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, resultMalformed, "read body: %v", err)
	}
	return body, nil
}

// decode turns a body into families. They are not checked.
func decode(body []byte, header http.Header) ([]*dto.MetricFamily, error) {
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return nil, refuse(http.StatusBadRequest, resultMalformed, "there is no Content-Type; delimited protobuf and the text format 0.0.4 are taken")
	}
	var families []*dto.MetricFamily
	var err error
	switch expfmt.ResponseFormat(header).FormatType() {
	case expfmt.TypeProtoDelim:
		families, err = decodeDelimited(body)
	case expfmt.TypeTextPlain:
		families, err = decodeText(body)
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, resultMalformed, "Content-Type is %s; delimited protobuf and the text format 0.0.4 are taken", quoted(contentType))
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, resultMalformed, "decode body: %v", err)
	}
	return families, nil
}

// known leaves out what nobody here knows, which the parser of rows may take for something else.
var known = proto.UnmarshalOptions{DiscardUnknown: true}

// decodeDelimited reads messages that each have their length before them.
func decodeDelimited(body []byte) ([]*dto.MetricFamily, error) {
	var families []*dto.MetricFamily
	for at := 0; at < len(body); {
		size, n := binary.Uvarint(body[at:])
		if n <= 0 {
			return nil, fmt.Errorf("family %d at byte %d: its length is no number", len(families)+1, at)
		}
		at += n
		if size > uint64(len(body)-at) {
			return nil, fmt.Errorf("family %d at byte %d: %d bytes are announced, %d follow", len(families)+1, at, size, len(body)-at)
		}
		f := &dto.MetricFamily{}
		if err := known.Unmarshal(body[at:at+int(size)], f); err != nil {
			return nil, fmt.Errorf("family %d at byte %d: %w", len(families)+1, at, err)
		}
		at += int(size)
		families = append(families, f)
	}
	return families, nil
}

// decodeText reads the text format, families in the order of their names. The parser panics where it meets a series
// without a name behind a family without series (prometheus/common v0.71.0).
func decodeText(body []byte) (families []*dto.MetricFamily, err error) {
	defer func() {
		if p := recover(); p != nil {
			families, err = nil, errors.New("text format: a series has no name")
		}
	}()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	byName, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	families = make([]*dto.MetricFamily, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		families = append(families, byName[name])
	}
	return families, nil
}
