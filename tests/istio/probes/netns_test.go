package probes

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	podAddress  = "10.77.0.2"
	nodeAddress = "10.77.0.1"
)

// network is a network namespace without a name. It is that of one thread, and goes with the thread and what was
// started in it, however the test ends.
type network struct {
	work   chan func()
	thread int
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{work: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread, which no other goroutine may have now, ends with this one.
		runtime.LockOSThread()
		n.thread = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for work := range n.work {
			work()
		}
	}()
	if err := <-made; err != nil {
		t.Skipf("no network namespace can be made here: %v", err)
	}
	t.Cleanup(func() { close(n.work) })
	n.run(t, "ip", "link", "set", "lo", "up")
	return n
}

// do runs work in the namespace. What it starts, listens on or connects stays there.
func (n *network) do(work func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); work() }
	<-done
}

func (n *network) run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	var said []byte
	var err error
	n.do(func() { said, err = exec.Command(name, arguments...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, said)
	}
	return string(said)
}

func (n *network) dial(ctx context.Context, kind, address string) (connection net.Conn, err error) {
	n.do(func() { connection, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, kind, address) })
	return connection, err
}

func (n *network) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	var err error
	n.do(func() { listener, err = net.Listen("tcp", address) })
	if err != nil {
		t.Fatalf("listen on %s: %v", address, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// client asks from the namespace, each time by a connection of its own, as the kubelet does.
func (n *network) client() *http.Client {
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true},
	}
}

// podAndNode are two namespaces with a cable between them, as a container runtime makes them.
func podAndNode(t *testing.T) (pod, node *network) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("network namespaces and rules of iptables want root; this is user %d", os.Getuid())
	}
	for _, tool := range []string{"ip", "iptables", "iptables-restore"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: apt-get install iproute2 iptables", err)
		}
	}
	pod, node = newNetwork(t), newNetwork(t)
	pod.run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "pod0", "netns", strconv.Itoa(node.thread))
	for _, end := range []struct {
		*network
		device, address string
	}{{pod, "eth0", podAddress}, {node, "pod0", nodeAddress}} {
		end.run(t, "ip", "address", "add", end.address+"/24", "dev", end.device)
		end.run(t, "ip", "link", "set", end.device, "up")
	}
	pod.run(t, "ip", "route", "add", "default", "via", nodeAddress)
	return pod, node
}
