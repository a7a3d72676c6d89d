package kubelet

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// seen is a request as a server has received it. Header names are in lower case.
type seen struct {
	method, target, host string
	headers              map[string][]string
}

// server answers as a row says, and records what it is asked.
type server struct {
	row      row
	listener net.Listener
	mutex    sync.Mutex
	requests []seen
}

// serve listens on a free port of 127.0.0.1.
func serve(t *testing.T, r row) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{row: r, listener: listener}
	t.Cleanup(func() { _ = listener.Close() })
	go s.accept(0)
	return s
}

func (s *server) accept(number int) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		number++
		if s.row.accepts != 0 && number > s.row.accepts {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			continue
		}
		go s.converse(c)
	}
}

func (s *server) converse(c net.Conn) {
	defer c.Close()
	reader := bufio.NewReader(c)
	for {
		request, err := read(reader, fmt.Sprintf(":%d", s.port()))
		if err != nil {
			return
		}
		s.mutex.Lock()
		s.requests = append(s.requests, request)
		s.mutex.Unlock()
		keeps := s.row.answer(c, request)
		if !keeps || slices.Contains(request.headers["connection"], "close") {
			return
		}
	}
}

// read takes the bytes as they are, where a parser would hide what is odd. The port `own` is OWN in a host.
func read(reader *bufio.Reader, own string) (seen, error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return seen{}, err
	}
	request := seen{headers: map[string][]string{}}
	request.method, request.target, _ = strings.Cut(strings.TrimSpace(line), " ")
	request.target = strings.TrimSuffix(request.target, " HTTP/1.1")
	for {
		line, err := reader.ReadString('\n')
		if err == nil && strings.TrimSpace(line) == "" && request.headers["transfer-encoding"] != nil {
			_, err = reader.Discard(len("0\r\n\r\n")) // no check has a body
		}
		if err != nil || strings.TrimSpace(line) == "" {
			return request, err
		}
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(name), strings.TrimSpace(value)
		if name == "host" {
			request.host = strings.Replace(value, own, ":OWN", 1)
		} else {
			request.headers[name] = append(request.headers[name], value)
		}
	}
}

// port is that of the server. Nothing listens on port 1, for a row whose connections are to be refused.
func (s *server) port() int {
	if s.row.answer == nil {
		return 1
	}
	return s.listener.Addr().(*net.TCPAddr).Port
}

// take returns the requests since the last call.
func (s *server) take() []seen {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	taken := s.requests
	s.requests = nil
	return taken
}
