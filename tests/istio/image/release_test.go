package image

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// What `make release` wrote. `make release-test` says where.
func releaseFolder(t *testing.T) string {
	t.Helper()
	place := os.Getenv("GRAYGATE_RELEASE")
	if place == "" {
		t.Skip("GRAYGATE_RELEASE is not set; `make release-test` sets it")
	}
	return place
}

// A registry that lists referrers, as OCI 1.1 has them.
func registryWithReferrers(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(
		registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)),
	))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Runs a program of the release, with a key that only this test has.
func runs(t *testing.T, place string, command ...string) (string, error) {
	t.Helper()
	run := exec.Command(command[0], command[1:]...)
	run.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+place)
	said, err := run.CombinedOutput()
	return string(said), err
}

func must(t *testing.T, place string, command ...string) string {
	t.Helper()
	said, err := runs(t, place, command...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, said)
	}
	return said
}

func digestOf(t *testing.T, place string) v1.Hash {
	t.Helper()
	digest, err := imageIn(t, place).Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestAReleaseIsPushedSignedVerifiedAndPulledByTheAgent(t *testing.T) {
	release := releaseFolder(t)
	work := t.TempDir()
	// The signature of the checksums is written beside them.
	copied := filepath.Join(work, "release")
	if err := os.CopyFS(copied, os.DirFS(release)); err != nil {
		t.Fatal(err)
	}
	must(t, work, "cosign", "generate-key-pair", "--output-key-prefix", filepath.Join(work, "cosign"))
	key, public := filepath.Join(work, "cosign.key"), filepath.Join(work, "cosign.pub")
	host := registryWithReferrers(t)
	must(t, work, "../../../.ci/publish", host+"/shop", key, copied)

	verify := func(reference string) (string, error) {
		return runs(t, work, "cosign", "verify", "--key", public, "--private-infrastructure", reference)
	}
	for image, module := range map[string]string{"image": "graygate", "image-requests": "graygate-requests"} {
		digest := digestOf(t, filepath.Join(release, image))
		repository := host + "/shop/" + module
		pinned, err := name.NewDigest(repository + "@" + digest.String())
		if err != nil {
			t.Fatal(err)
		}
		referrers, err := remote.Referrers(pinned)
		if err != nil {
			t.Fatal(err)
		}
		found, err := referrers.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		// The signature, and the bill of materials as a signed statement.
		if len(found.Manifests) != 2 {
			t.Errorf("%s: want two referrers, have %d", module, len(found.Manifests))
		}
		if said, err := verify(pinned.String()); err != nil || !strings.Contains(said, digest.String()) {
			t.Errorf("%s: %v\n%s", module, err, said)
		}
		said := must(t, work, "cosign", "verify-attestation", "--key", public, "--private-infrastructure", "--type", "cyclonedx", pinned.String())
		if !strings.Contains(said, "payload") {
			t.Errorf("%s: no statement: %s", module, said)
		}

		// What the agent of Istio gets by the digest is the module, byte for byte.
		want, err := os.ReadFile(filepath.Join(release, module+".wasm"))
		if err != nil {
			t.Fatal(err)
		}
		have, err := fetch(t, "oci://"+repository+"@"+digest.String(), digest.Hex)
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s: the agent has %d bytes of %d: %v", module, len(have), len(want), err)
		}
		pulled := filepath.Join(work, module)
		must(t, work, "crane", "pull", "--format=oci", pinned.String(), pulled)
		if again := digestOf(t, pulled); again != digest {
			t.Errorf("%s: pushed %s, pulled %s", module, digest, again)
		}
	}

	// Another image under the tag, with one more annotation, has no signature.
	repository := host + "/shop/graygate"
	reference, err := name.NewTag(repository + ":tampered")
	if err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(release, "image"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(digestOf(t, filepath.Join(release, "image")))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := mutate.Annotations(image, map[string]string{"other": "word"}).(v1.Image)
	if err := remote.Write(reference, other); err != nil {
		t.Fatal(err)
	}
	if said, err := verify(reference.String()); err == nil {
		t.Errorf("a tampered image was verified:\n%s", said)
	}
	// A signature by another key is none.
	must(t, work, "cosign", "generate-key-pair", "--output-key-prefix", filepath.Join(work, "other"))
	first := repository + "@" + digestOf(t, filepath.Join(release, "image")).String()
	if said, err := runs(t, work, "cosign", "verify", "--key", filepath.Join(work, "other.pub"), "--private-infrastructure", first); err == nil {
		t.Errorf("verified by a key that did not sign:\n%s", said)
	}

	// The checksums of the folder.
	sums := filepath.Join(copied, "SHA256SUMS")
	blob := []string{"cosign", "verify-blob", "--key", public, "--private-infrastructure", "--bundle", sums + ".sigstore.json", sums}
	must(t, work, blob...)
	if err := os.WriteFile(sums, []byte("tampered"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := runs(t, work, blob...); err == nil {
		t.Errorf("tampered checksums were verified:\n%s", said)
	}
}
