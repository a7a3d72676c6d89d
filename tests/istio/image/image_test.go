package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"istio.io/istio/pkg/util/sets"
	"istio.io/istio/pkg/wasm"
)

// The agent's own cache, with the agent's own limits save those that a test would wait for.
func moduleCache(t *testing.T, directory string, change ...func(*wasm.Options)) *wasm.LocalFileCache {
	t.Helper()
	options := wasm.Options{
		InsecureRegistries:    sets.New("*"),
		HTTPRequestTimeout:    wasm.DefaultHTTPRequestTimeout,
		HTTPRequestMaxRetries: 2,
	}
	for _, each := range change {
		each(&options)
	}
	cache := wasm.NewLocalFileCache(directory, options)
	t.Cleanup(cache.Cleanup)
	return cache
}

func fetch(t *testing.T, url, checksum string) ([]byte, error) {
	t.Helper()
	cache := moduleCache(t, t.TempDir())
	path, err := cache.Get(url, wasm.GetOptions{Checksum: checksum, RequestTimeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// How a WasmPlugin may name a module, and whether the agent takes it.
func TestTheAgentFetchesTheModuleByWhatNamesItAlone(t *testing.T) {
	module := moduleBytes(t)
	image, digest := moduleImage(t, modulePath)
	server := serveModules(t)
	server.push(t, image, "1.0.0")
	server.file.Store(&module)
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = writer.Write(module)
	_ = writer.Close()
	zipped := serveModules(t)
	gz := packed.Bytes()
	zipped.file.Store(&gz)

	// What docker pushes with an attestation, or for several platforms.
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	indexed := server.pushIndex(t, index, "1.0.0-index")

	wrong := strings.Repeat("0", 64)
	repository := "oci://" + server.host + "/graygate"
	for _, each := range []struct{ name, url, checksum, refused string }{
		{"an image by tag", repository + ":1.0.0", "", ""},
		{"an image by tag and digest", repository + ":1.0.0", digest, ""},
		{"an image by digest in its url", repository + "@sha256:" + digest, "", ""},
		{"an image by both", repository + "@sha256:" + digest, digest, ""},
		{"an image by another digest", repository + ":1.0.0", wrong, digest + ", which does not match: " + wrong},
		{"an image by another digest in its url", repository + "@sha256:" + wrong, "", "could not fetch manifest"},
		// The commonest mistake: for an image, the digest is the manifest's.
		{"an image by the module's hash", repository + ":1.0.0", sha256Of(module), "does not match: " + sha256Of(module)},
		{"an image by a tag that is not there", repository + ":2.0.0", "", "could not fetch manifest"},
		{"an index by the digest of its image", repository + ":1.0.0-index", digest, ""},
		{"an index by its own digest", repository + ":1.0.0-index", indexed, "has checksum " + digest},
		{"a file", "http://" + server.host + "/graygate.wasm", "", ""},
		{"a file by its hash", "http://" + server.host + "/graygate.wasm", sha256Of(module), ""},
		{"a file by another hash", "http://" + server.host + "/graygate.wasm", wrong, "does not match: " + wrong},
		{"a file by the image's digest", "http://" + server.host + "/graygate.wasm", digest, "does not match: " + digest},
		{"a file that is not there", "http://" + server.host + "/other.wasm", "", "status code 404"},
		// Unpacked first.
		{"a packed file by the module's hash", "http://" + zipped.host + "/graygate.wasm", sha256Of(module), ""},
	} {
		t.Run(each.name, func(t *testing.T) {
			fetched, err := fetch(t, each.url, each.checksum)
			switch {
			case each.refused == "" && err != nil:
				t.Fatal(err)
			case each.refused == "" && !bytes.Equal(fetched, module):
				t.Fatalf("fetched %d bytes that are not the module's %d", len(fetched), len(module))
			case each.refused != "" && (err == nil || !strings.Contains(err.Error(), each.refused)):
				t.Fatalf("want an error with %q, have %v", each.refused, err)
			}
		})
	}
}

func TestTheDigestThatIsPrintedIsTheOneThatTheAgentCompares(t *testing.T) {
	for what, licences := range map[string][]string{"make image": nil, "make release": {"../../../LICENSE"}} {
		image, printed := moduleImage(t, modulePath, licences...)
		server := serveModules(t)
		server.push(t, image, "1.0.0")
		fetcher := wasm.NewImageFetcher(context.Background(), wasm.ImageFetcherOption{Insecure: true})
		binary, digest, err := fetcher.PrepareFetch(server.host + "/graygate:1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		if digest != printed {
			t.Errorf("%s: printed %s, compared by the agent %s", what, printed, digest)
		}
		if module, err := binary(); err != nil || !bytes.Equal(module, moduleBytes(t)) {
			t.Errorf("%s: not the module: %d bytes, %v", what, len(module), err)
		}
	}
}
