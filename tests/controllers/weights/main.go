// Command weights prints the objects of Istio that Flagger and Argo Rollouts write, by their own code.
//
//	weights flagger canary.yaml 0 10 50   for a Canary: one state for each weight
//	weights argo rollout.yaml             for a Rollout, its VirtualService and its DestinationRule: one for each step
//
// It prints a JSON list of states. Kubernetes is a fake client in memory.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// state is what stands in the cluster after one step of a controller.
type state struct {
	Step    string `json:"step"`
	Objects []any  `json:"objects"`
}

func main() {
	states, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(states)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weights:", err)
		os.Exit(1)
	}
}

func run(arguments []string) ([]state, error) {
	if len(arguments) < 2 {
		return nil, fmt.Errorf("usage: weights flagger|argo FILE [WEIGHT…]")
	}
	text, err := os.ReadFile(arguments[1])
	if err != nil {
		return nil, err
	}
	switch arguments[0] {
	case "flagger":
		return flagger(text, arguments[2:])
	case "argo":
		return argo(text)
	}
	return nil, fmt.Errorf("%q is unknown; allowed: flagger, argo", arguments[0])
}

// documents hands each YAML document to `each`, with its kind.
func documents(text []byte, each func(kind string, document []byte) error) error {
	for _, part := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		var header struct{ Kind string }
		if err := yaml.Unmarshal(part, &header); err != nil {
			return err
		}
		if header.Kind == "" {
			continue
		}
		if err := each(header.Kind, part); err != nil {
			return fmt.Errorf("%s: %w", header.Kind, err)
		}
	}
	return nil
}
