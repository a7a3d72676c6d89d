package istio

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"sigs.k8s.io/yaml"

	"istio.io/istio/pkg/config/schema/collections"

	"graygate/tests/istio/kustomize"
)

// clusterSocket is the environment variable that names the socket of a cluster.
const clusterSocket = "GRAYGATE_CLUSTER"

// kubectlCluster gives shell commands a kubectl that acts on the control plane of a test. It knows the subcommands of the
// runbook. Manifests are built by kustomize's code, patched by the code that the API server uses, and read strictly.
type kubectlCluster struct {
	*controlPlane
	directory string
	mu        sync.Mutex
	// objects are all that was applied, as it was applied, by kind, namespace and name.
	objects map[string]document
}

// kubectlCall is one run of kubectl.
type kubectlCall struct {
	Arguments []string
	Directory string
	Input     []byte
}

// kubectlResult is what one run of kubectl prints.
type kubectlResult struct {
	Output, Error string
}

// cluster starts one. Its shell runs in `directory`.
func (c *controlPlane) cluster(directory string) *kubectlCluster {
	c.t.Helper()
	k := &kubectlCluster{controlPlane: c, directory: directory, objects: map[string]document{}}
	socket := filepath.Join(c.t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = listener.Close() })
	c.t.Setenv(clusterSocket, socket)
	programs := c.t.TempDir()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	graygate, err := filepath.Abs(tool)
	if err != nil {
		c.t.Fatal(err)
	}
	for name, program := range map[string]string{"kubectl": self, "graygate": graygate} {
		if err := os.Symlink(program, filepath.Join(programs, name)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go k.serve(connection)
		}
	}()
	return k
}

// shell runs a script with bash. It fails the test if a command fails.
func (k *kubectlCluster) shell(script string) {
	k.t.Helper()
	if output, err := k.try(script); err != nil {
		k.t.Fatalf("%v\n%s\n--- script ---\n%s", err, output, script)
	}
}

// try runs a script with bash, and returns what it prints.
func (k *kubectlCluster) try(script string) (string, error) {
	command := exec.Command("bash", "-euo", "pipefail", "-c", script)
	command.Dir = k.directory
	output, err := command.CombinedOutput()
	return string(output), err
}

func (k *kubectlCluster) serve(connection net.Conn) {
	defer connection.Close()
	var call kubectlCall
	if err := json.NewDecoder(connection).Decode(&call); err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	output, err := k.run(call)
	result := kubectlResult{Output: output}
	if err != nil {
		result.Error = err.Error()
	}
	_ = json.NewEncoder(connection).Encode(result)
}

func (k *kubectlCluster) run(call kubectlCall) (string, error) {
	flags := flag.NewFlagSet("kubectl", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	namespace := flags.String("n", "default", "")
	file := flags.String("f", "", "")
	kustomization := flags.String("k", "", "")
	kind := flags.String("type", "", "")
	patch := flags.String("p", "", "")
	format := flags.String("o", "", "")
	// Flags and words may come in any order.
	var words []string
	for rest := call.Arguments; len(rest) > 0; {
		if err := flags.Parse(rest); err != nil {
			return "", err
		}
		if rest = flags.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	verb := strings.Join(words, " ")
	if len(words) == 3 {
		verb = words[0]
	}
	switch {
	case len(words) == 2 && words[0] == "kustomize":
		return kustomize.Build(k.t, filepath.Join(call.Directory, words[1])), nil
	case verb == "apply" && *kustomization != "":
		return k.put(kustomize.Build(k.t, filepath.Join(call.Directory, *kustomization)))
	case (verb == "apply" || verb == "replace") && *file == "-":
		return k.put(string(call.Input))
	case verb == "apply" && *file != "":
		text, err := os.ReadFile(filepath.Join(call.Directory, *file))
		if err != nil {
			return "", err
		}
		return k.put(string(text))
	case verb == "patch" && *kind == "merge":
		return k.patch(words[1], *namespace, words[2], *patch)
	case verb == "get" && *format == "json":
		found, err := k.find(words[1], *namespace, words[2])
		if err != nil {
			return "", err
		}
		text, err := json.MarshalIndent(found, "", "    ")
		return string(text), err
	case verb == "delete":
		found, err := k.find(words[1], *namespace, words[2])
		if err != nil {
			return "", err
		}
		delete(k.objects, k.key(found))
		k.remove(found.text(k.t))
		return "", nil
	}
	return "", fmt.Errorf("kubectl %s: not known here", strings.Join(call.Arguments, " "))
}

// put creates or replaces objects. Objects that are not Istio's are only kept.
func (k *kubectlCluster) put(text string) (string, error) {
	var all bytes.Buffer
	for _, one := range documents(k.t, text) {
		k.objects[k.key(one)] = one
		fmt.Fprintf(&all, "%s applied\n", k.key(one))
		if strings.HasSuffix(one.kind().Group, ".istio.io") {
			k.apply(local(k.t, one.text(k.t)))
		}
	}
	return all.String(), nil
}

func (k *kubectlCluster) patch(kind, namespace, name, patch string) (string, error) {
	found, err := k.find(kind, namespace, name)
	if err != nil {
		return "", err
	}
	before, err := yaml.YAMLToJSON([]byte(found.text(k.t)))
	if err != nil {
		return "", err
	}
	after, err := jsonpatch.MergePatch(before, []byte(patch))
	if err != nil {
		return "", err
	}
	return k.put(string(after))
}

func (k *kubectlCluster) key(one document) string {
	return fmt.Sprintf("%s/%s/%s", strings.ToLower(one.kind().Kind), one.metadata("namespace"), one.metadata("name"))
}

func (k *kubectlCluster) find(kind, namespace, name string) (document, error) {
	for _, schema := range collections.PilotGatewayAPI().All() {
		if schema.Plural() == kind {
			kind = strings.ToLower(schema.Kind())
		}
	}
	key := fmt.Sprintf("%s/%s/%s", kind, namespace, name)
	if found, ok := k.objects[key]; ok {
		return found, nil
	}
	return nil, fmt.Errorf("%s not found", key)
}

// runKubectl is the program that scripts run as kubectl. It passes its arguments to the cluster and returns its exit
// code.
func runKubectl(socket string, arguments []string) int {
	result, err := callCluster(socket, arguments)
	if err == nil && result.Error != "" {
		err = errors.New(result.Error)
	}
	fmt.Print(result.Output)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubectl:", err)
		return 1
	}
	return 0
}

func callCluster(socket string, arguments []string) (result kubectlResult, err error) {
	call := kubectlCall{Arguments: arguments}
	if call.Directory, err = os.Getwd(); err != nil {
		return result, err
	}
	for i, argument := range arguments {
		if argument == "-" && i > 0 && arguments[i-1] == "-f" {
			if call.Input, err = io.ReadAll(os.Stdin); err != nil {
				return result, err
			}
		}
	}
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return result, err
	}
	defer connection.Close()
	if err = json.NewEncoder(connection).Encode(call); err != nil {
		return result, err
	}
	return result, json.NewDecoder(connection).Decode(&result)
}

// workspace is a directory like the project's root, with a copy of istio/ that a script may change.
func workspace(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	if err := os.CopyFS(filepath.Join(directory, "istio"), os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	return directory
}
