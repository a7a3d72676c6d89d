package image

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

const modulePath = "../../../dist/graygate.wasm"

func moduleBytes(t *testing.T) []byte {
	t.Helper()
	module, err := os.ReadFile(modulePath)
	if err != nil {
		t.Fatalf("%v; `make wasm` builds it", err)
	}
	return module
}

func sha256Of(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// The image of a layout that has one.
func imageIn(t *testing.T, place string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(place)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// What `make image` writes of a module, and the digest that it prints. With files of licences, what `make release` writes.
func moduleImage(t *testing.T, module string, licences ...string) (v1.Image, string) {
	t.Helper()
	place := filepath.Join(t.TempDir(), "image")
	said, err := exec.Command("../../../.ci/image", append([]string{module, place}, licences...)...).Output()
	if err != nil {
		t.Fatalf(".ci/image: %v", err)
	}
	image := imageIn(t, place)
	digest, _, _ := strings.Cut(string(said), "\n")
	return image, strings.TrimPrefix(digest, "sha256:")
}

// A place that modules come from, which can be told to fail: a registry for images, and of files the one that is set.
type moduleServer struct {
	host     string
	requests atomic.Int32
	// Answers each request with this status, if it is not 0.
	fails atomic.Int32
	// What /graygate.wasm is.
	file     atomic.Pointer[[]byte]
	listener net.Listener
	server   *http.Server
}

func serveModules(t *testing.T) *moduleServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	served := &moduleServer{host: listener.Addr().String(), listener: listener}
	served.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.requests.Add(1)
		switch file := served.file.Load(); {
		case served.fails.Load() != 0:
			w.WriteHeader(int(served.fails.Load()))
		case r.URL.Path == "/graygate.wasm" && file != nil:
			_, _ = w.Write(*file)
		default:
			images.ServeHTTP(w, r)
		}
	})}
	go served.server.Serve(listener)
	t.Cleanup(served.down)
	return served
}

// From now on connections are refused.
func (s *moduleServer) down() { _ = s.server.Close() }

// Puts an image there, as `crane push` does.
func (s *moduleServer) push(t *testing.T, image v1.Image, tag string) {
	t.Helper()
	reference, err := name.ParseReference(s.host + "/graygate:" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
}

// The index's digest.
func (s *moduleServer) pushIndex(t *testing.T, index v1.ImageIndex, tag string) string {
	t.Helper()
	reference, err := name.ParseReference(s.host + "/graygate:" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Hex
}

func (s *moduleServer) image(tag string) string { return "oci://" + s.host + "/graygate:" + tag }
