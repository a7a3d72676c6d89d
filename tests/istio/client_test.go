package istio

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// client sends requests to one listener of an Envoy. It keeps its connections, as callers do.
type client struct {
	address, host string
	http          *http.Client
}

type answer struct {
	status int
	body   string
	header http.Header
}

func newClient(t *testing.T, address, host string) *client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{address, host, &http.Client{Transport: transport, Timeout: 5 * time.Second}}
}

// ask sends a GET, with a header for each pair of `headers`. No answer at all has the status 0.
func (c *client) ask(path string, headers ...string) answer {
	request, err := http.NewRequest(http.MethodGet, "http://"+c.address+path, nil)
	if err != nil {
		panic(err)
	}
	request.Host = c.host
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	return answer{response.StatusCode, string(body), response.Header}
}
