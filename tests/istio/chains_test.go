package istio

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	wasmfilter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	wasm "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"istio.io/istio/pilot/pkg/model"
)

// ours is what the project's filter is called in chains, whatever name Istio gave it.
const ours = "graygate"

// chain is one filter chain of one listener.
type chain struct {
	listener, name string
	direction      core.TrafficDirection
	port           uint32
	// transport is "tls", "raw_buffer" or, if the chain does not ask for either, empty.
	transport string
	// network filters, and those of the HTTP connection manager if there is one.
	network, http []string
	// plugins are those among the HTTP filters that are ours, in their order.
	plugins []plugin
}

// plugin is the filter as Envoy would get it, inline or by extension discovery.
type plugin struct {
	filterName string
	discovered bool
	config     *wasm.PluginConfig
}

func (c chain) String() string {
	return fmt.Sprintf("%s/%s %s %s", c.listener, c.name, c.direction, strings.Join(c.http, " "))
}

func (p plugin) policy(t *testing.T) string {
	t.Helper()
	var text wrapperspb.StringValue
	if err := p.config.GetConfiguration().UnmarshalTo(&text); err != nil {
		t.Fatalf("%s: the policy is no string: %v", p.filterName, err)
	}
	return text.GetValue()
}

// chains are all filter chains of a proxy that have to do with requests: those with an HTTP connection manager, and
// those without one.
func (c *controlPlane) chains(proxy *model.Proxy) (http, tcp []chain) {
	c.t.Helper()
	for _, one := range c.Listeners(proxy) {
		all := one.GetFilterChains()
		if one.GetDefaultFilterChain() != nil {
			all = append(all, one.GetDefaultFilterChain())
		}
		for _, filters := range all {
			found := c.chain(proxy, one, filters)
			if found.http != nil {
				http = append(http, found)
			} else {
				tcp = append(tcp, found)
			}
		}
	}
	return http, tcp
}

func (c *controlPlane) chain(proxy *model.Proxy, from *listener.Listener, filters *listener.FilterChain) chain {
	c.t.Helper()
	found := chain{
		listener: from.GetName(), name: filters.GetName(), direction: from.GetTrafficDirection(),
		port:      filters.GetFilterChainMatch().GetDestinationPort().GetValue(),
		transport: filters.GetFilterChainMatch().GetTransportProtocol(),
	}
	for _, filter := range filters.GetFilters() {
		found.network = append(found.network, filter.GetName())
		var manager hcm.HttpConnectionManager
		if !filter.GetTypedConfig().MessageIs(&manager) {
			continue
		}
		if err := filter.GetTypedConfig().UnmarshalTo(&manager); err != nil {
			c.t.Fatal(err)
		}
		for _, one := range manager.GetHttpFilters() {
			name := one.GetName()
			if mine := c.plugin(proxy, one); mine != nil {
				name = ours
				found.plugins = append(found.plugins, *mine)
			}
			found.http = append(found.http, name)
		}
	}
	return found
}

// plugin is `filter` if it is a Wasm filter. One that is to be discovered must be there to be discovered.
func (c *controlPlane) plugin(proxy *model.Proxy, filter *hcm.HttpFilter) *plugin {
	c.t.Helper()
	config := filter.GetTypedConfig()
	discovery := filter.GetConfigDiscovery()
	if discovery != nil {
		config = c.discovered(proxy, filter.GetName())
		if config == nil {
			c.t.Errorf("%s: %s is to be discovered, but is not there", proxy.ID, filter.GetName())
			return nil
		}
		if !slices.Contains(discovery.GetTypeUrls(), config.GetTypeUrl()) {
			c.t.Errorf("%s: %s is a %s, not one of %v", proxy.ID, filter.GetName(), config.GetTypeUrl(), discovery.GetTypeUrls())
		}
	}
	var wasm wasmfilter.Wasm
	if !config.MessageIs(&wasm) {
		return nil
	}
	if err := config.UnmarshalTo(&wasm); err != nil {
		c.t.Fatal(err)
	}
	return &plugin{filter.GetName(), discovery != nil, wasm.GetConfig()}
}

func (c *controlPlane) discovered(proxy *model.Proxy, name string) *anypb.Any {
	for _, one := range c.ConfigGen.BuildExtensionConfiguration(proxy, c.PushContext(), []string{name}, nil) {
		if one.GetName() == name {
			return one.GetTypedConfig()
		}
	}
	return nil
}
