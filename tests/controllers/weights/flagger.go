package main

import (
	"context"
	"fmt"
	"strconv"

	flaggerv1 "github.com/fluxcd/flagger/pkg/apis/flagger/v1beta1"
	istiov1 "github.com/fluxcd/flagger/pkg/apis/istio/v1beta1"
	"github.com/fluxcd/flagger/pkg/client/clientset/versioned/fake"
	"github.com/fluxcd/flagger/pkg/router"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// flagger lets Flagger's router create its objects for a Canary, and then set each of the canary's weights.
func flagger(text []byte, weights []string) ([]state, error) {
	var canary flaggerv1.Canary
	if err := yaml.UnmarshalStrict(text, &canary); err != nil {
		return nil, err
	}
	client := fake.NewSimpleClientset(&canary)
	factory := router.NewFactory(nil, nil, client, nil, "", "", zap.NewNop().Sugar(), client, false)
	mesh := factory.MeshRouter(flaggerv1.IstioProvider, "app")
	if err := mesh.Reconcile(&canary); err != nil {
		return nil, err
	}
	var states []state
	for _, text := range weights {
		weight, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		if err := mesh.SetRoutes(&canary, 100-weight, weight, false); err != nil {
			return nil, err
		}
		// Flagger reconciles before each advance, so what it set must survive that.
		if err := mesh.Reconcile(&canary); err != nil {
			return nil, err
		}
		objects, err := flaggersObjects(client, canary.Namespace)
		if err != nil {
			return nil, err
		}
		states = append(states, state{fmt.Sprintf("weight %d", weight), objects})
	}
	return states, nil
}

func flaggersObjects(client *fake.Clientset, namespace string) ([]any, error) {
	ctx, all := context.Background(), metav1.ListOptions{}
	istio := client.NetworkingV1beta1()
	services, err := istio.VirtualServices(namespace).List(ctx, all)
	if err != nil {
		return nil, err
	}
	rules, err := istio.DestinationRules(namespace).List(ctx, all)
	if err != nil {
		return nil, err
	}
	var objects []any
	for _, one := range services.Items {
		one.SetGroupVersionKind(istiov1.SchemeGroupVersion.WithKind("VirtualService"))
		objects = append(objects, one)
	}
	for _, one := range rules.Items {
		one.SetGroupVersionKind(istiov1.SchemeGroupVersion.WithKind("DestinationRule"))
		objects = append(objects, one)
	}
	return objects, nil
}
