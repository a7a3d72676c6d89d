package kubelet

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	_ "google.golang.org/grpc/encoding/gzip" // the kubelet has it, by what it imports for traces
	"k8s.io/kubernetes/pkg/probe"
	probegrpc "k8s.io/kubernetes/pkg/probe/grpc"
)

// grpcRow is a gRPC health check of one server.
type grpcRow struct {
	service string
	answer  http.HandlerFunc
	// timeout is that of a check that is to run into it, as in row.
	timeout time.Duration
}

var serving, notServing = []byte{8, 1}, []byte{8, 2}

func frame(flag byte, message []byte) []byte {
	return slices.Concat([]byte{flag, 0, 0, byte(len(message) >> 8), byte(len(message))}, message)
}

// responds sends a response of these bytes with this status in the trailers, or with none if it is empty.
func responds(body []byte, status string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		_, _ = w.Write(body)
		if status != "" {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
		}
	}
}

// onlyHeaders is what servers send that refuse a call.
func onlyHeaders(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func gzipped(message []byte) []byte {
	var buffer bytes.Buffer
	writer := gzip.NewWriter(&buffer)
	_, _ = writer.Write(message)
	_ = writer.Close()
	return buffer.Bytes()
}

func grpcRows() map[string]grpcRow {
	rows := map[string]grpcRow{
		"serving":                   {answer: responds(frame(0, serving), "0")},
		"a service that serves":     {service: "shop.Reviews", answer: responds(frame(0, serving), "0")},
		"not serving":               {answer: responds(frame(0, notServing), "0")},
		"unknown":                   {answer: responds(frame(0, nil), "0")},
		"service unknown":           {answer: responds(frame(0, []byte{8, 3}), "0")},
		"a status of the future":    {answer: responds(frame(0, []byte{8, 7}), "0")},
		"the last status counts":    {answer: responds(frame(0, []byte{8, 2, 8, 1}), "0")},
		"fields of the future":      {answer: responds(frame(0, []byte{8, 1, 18, 1, 65}), "0")},
		"a message that is none":    {answer: responds(frame(0, []byte{8}), "0")},
		"a long varint":             {answer: responds(frame(0, []byte{8, 0x81, 0x80, 0x00}), "0")},
		"two messages":              {answer: responds(slices.Concat(frame(0, serving), frame(0, serving)), "0")},
		"half a message":            {answer: responds(frame(0, serving)[:6], "0")},
		"no message":                {answer: responds(nil, "0")},
		"serving and an error":      {answer: responds(frame(0, serving), "13")},
		"serving and no status":     {answer: responds(frame(0, serving), "")},
		"serving and a strange one": {answer: responds(frame(0, serving), "x")},
		"status 00":                 {answer: responds(frame(0, serving), "00")},
		"gzip":                      {answer: responds(frame(1, gzipped(serving)), "0", "Grpc-Encoding", "gzip")},
		"gzip, not serving":         {answer: responds(frame(1, gzipped(notServing)), "0", "Grpc-Encoding", "gzip")},
		"gzip that is none":         {answer: responds(frame(1, serving), "0", "Grpc-Encoding", "gzip")},
		"gzip that is not said":     {answer: responds(frame(1, gzipped(serving)), "0")},
		"gzip said and not done":    {answer: responds(frame(0, serving), "0", "Grpc-Encoding", "gzip")},
		"an encoding of its own":    {answer: responds(frame(1, serving), "0", "Grpc-Encoding", "snappy")},
		"identity":                  {answer: responds(frame(0, serving), "0", "Grpc-Encoding", "identity")},
		"content type +proto":       {answer: responds(frame(0, serving), "0", "Content-Type", "application/grpc+proto")},
		"content type of a page":    {answer: responds(frame(0, serving), "0", "Content-Type", "text/html")},
		"a flag of the future":      {answer: responds(frame(2, serving), "0")},
		"a page":                    {answer: onlyHeaders(200, "Content-Type", "text/html")},
		"a message of 20 KiB":       {answer: responds(frame(0, slices.Concat(serving, []byte{18, 0x80, 0xa0, 1}, make([]byte, 20480))), "0")},
		"an answer that does not end": {timeout: time.Second, answer: func(w http.ResponseWriter, r *http.Request) {
			responds(frame(0, serving), "")(w, r)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(3 * time.Second)
		}},
		"no answer": {timeout: time.Second, answer: func(http.ResponseWriter, *http.Request) { time.Sleep(3 * time.Second) }},
		"reset":     {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	}
	for code := range 18 {
		name := fmt.Sprintf("status %d and no message", code)
		rows[name] = grpcRow{answer: onlyHeaders(200, "Content-Type", "application/grpc", "Grpc-Status", fmt.Sprint(code))}
	}
	for _, code := range []int{204, 302, 400, 401, 404, 429, 500, 503} {
		rows[fmt.Sprintf("HTTP %d", code)] = grpcRow{answer: onlyHeaders(code)}
		rows[fmt.Sprintf("HTTP %d and status 0", code)] = grpcRow{answer: responds(nil, "0", "Grpc-Status", "0")}
	}
	return rows
}

// grpcServer answers each call as its row says, and records what calls ask for.
func grpcServer(t *testing.T, r grpcRow) (port int, calls func() []string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mutex sync.Mutex
	var recorded []string
	server := &http.Server{Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		mutex.Lock()
		recorded = append(recorded, fmt.Sprintf("%s %s %s te=%s %q", request.Method, request.URL.Path,
			request.Header.Get("Content-Type"), request.Header.Get("Te"), body))
		mutex.Unlock()
		r.answer(w, request)
	})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().(*net.TCPAddr).Port, func() []string {
		mutex.Lock()
		defer mutex.Unlock()
		taken := recorded
		recorded = nil
		return taken
	}
}

func TestOddGRPCServersAreJudgedAsByTheKubelet(t *testing.T) {
	rows := grpcRows()
	upstreams, clusters := tree{}, map[string]int{}
	names := map[string]string{}
	calls := map[string]func() []string{}
	theirs := map[string]string{}
	theirCalls := map[string][]string{}
	var mutex sync.Mutex
	var all sync.WaitGroup
	for name, r := range rows {
		port, take := grpcServer(t, r)
		wait := row{timeout: r.timeout}.wait()
		upstream := fmt.Sprintf("row-%d", len(names))
		names[upstream], calls[name], clusters[upstream] = name, take, port
		upstreams[upstream] = tree{"cluster": upstream, "readinessProbe": tree{
			"grpc": tree{"service": r.service}, "periodSeconds": 3600, "timeoutSeconds": wait.Seconds(), "failureThreshold": 1,
		}}
		all.Go(func() {
			result, _, err := probegrpc.New().Probe("127.0.0.1", r.service, port, wait)
			mutex.Lock()
			defer mutex.Unlock()
			theirs[name], theirCalls[name] = "fails", take()
			if err == nil && result == probe.Success {
				theirs[name] = "passes"
			}
		})
	}
	all.Wait()
	e := start(t, policyOf(upstreams), clusters, true)
	e.until("each upstream was checked", func() bool { return len(e.checks()) == len(rows) })
	for upstream, found := range e.checks() {
		name := names[upstream]
		said := ""
		if ours := verdict(found, 1); ours != theirs[name] {
			said = fmt.Sprintf("for the kubelet it %s, for us it %s", theirs[name], ours)
		} else if ours := calls[name](); !slices.Equal(ours, theirCalls[name]) {
			said = fmt.Sprintf("%v, and ours are %v", theirCalls[name], ours)
		}
		reason, known := grpcDiffersByDesign[name]
		if said != "" && !known {
			t.Errorf("%q: %s", name, said)
		}
		if said == "" && known {
			t.Errorf("%q does not differ: take it off the list (%s)", name, reason)
		}
	}
}
