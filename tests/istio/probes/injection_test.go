package probes

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"istio.io/istio/operator/pkg/render"
	"istio.io/istio/pilot/pkg/features"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/kube/inject"
	"istio.io/istio/pkg/test"
)

// injected is the Pod that Istio's injector makes of a Deployment, with the templates and values of Istio's own chart.
func injected(t *testing.T, deployment string) *corev1.PodTemplateSpec {
	t.Helper()
	chart := []string{"profile=empty", "components.pilot.enabled=true"}
	settings, _, err := render.GenerateManifest(nil, chart, false, nil, nil)
	if err != nil {
		t.Fatalf("Istio's chart: %v", err)
	}
	var templates inject.Templates
	var values inject.ValuesConfig
	meshConfig := mesh.DefaultMeshConfig()
	for _, component := range settings {
		for _, object := range component.Manifests {
			if object.GetKind() != "ConfigMap" {
				continue
			}
			data, _ := object.Object["data"].(map[string]any)
			text := func(key string) string { value, _ := data[key].(string); return value }
			switch object.GetName() {
			case "istio-sidecar-injector":
				config, err := inject.UnmarshalConfig([]byte(text("config")))
				if err != nil {
					t.Fatal(err)
				}
				templates = config.Templates
				if values, err = inject.NewValuesConfig(text("values")); err != nil {
					t.Fatal(err)
				}
			case "istio":
				if meshConfig, err = mesh.ApplyMeshConfig(text("mesh"), meshConfig); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if templates == nil {
		t.Fatal("Istio's chart has no ConfigMap istio-sidecar-injector")
	}
	var out bytes.Buffer
	warned := func(warning string) { t.Errorf("the injector warns: %s", warning) }
	err = inject.IntoResourceFile(nil, templates, values, "", meshConfig, strings.NewReader(deployment), &out, warned)
	if err != nil {
		t.Fatal(err)
	}
	var result appsv1.Deployment
	document := strings.TrimSuffix(out.String(), "---\n")
	if err := yaml.Unmarshal([]byte(document), &result); err != nil {
		t.Fatal(err)
	}
	return &result.Spec.Template
}

func containerOf(t *testing.T, pod *corev1.PodTemplateSpec, name string) *corev1.Container {
	t.Helper()
	found := inject.FindContainerFromPod(name, &corev1.Pod{Spec: pod.Spec})
	if found == nil {
		t.Fatalf("the Pod has no container %s", name)
	}
	return found
}

// environment is what is set by value; what Kubernetes fills in is not.
func environment(container *corev1.Container) map[string]string {
	values := map[string]string{}
	for _, variable := range container.Env {
		if variable.ValueFrom == nil {
			values[variable.Name] = variable.Value
		}
	}
	return values
}

func nativeSidecars(t *testing.T, mode features.NativeSidecarMode) {
	test.SetForTest(t, &features.EnableNativeSidecars, mode)
}

type askedAt struct {
	Path string
	Port int32
}

func target(probe *corev1.Probe) askedAt {
	return askedAt{probe.HTTPGet.Path, probe.HTTPGet.Port.IntVal}
}

func TestProbesOfTheExampleAreRewrittenToTheAgentWhichKnowsTheOriginals(t *testing.T) {
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	pod := injected(t, built(t, exampleShop).one(t, "Deployment"))
	app := containerOf(t, pod, "app")
	for path, probe := range map[string]*corev1.Probe{
		"/app-health/app/startupz": app.StartupProbe,
		"/app-health/app/readyz":   app.ReadinessProbe,
		"/app-health/app/livez":    app.LivenessProbe,
	} {
		if got, want := target(probe), (askedAt{path, 15020}); got != want {
			t.Errorf("the kubelet asks at %v, expected %v", got, want)
		}
	}
	// Thresholds and periods are the kubelet's, and stay.
	if app.StartupProbe.FailureThreshold != 60 || app.ReadinessProbe.FailureThreshold != 1 {
		t.Errorf("thresholds were changed: %v, %v", app.StartupProbe, app.ReadinessProbe)
	}

	var probers inject.KubeAppProbers
	text := environment(containerOf(t, pod, "istio-proxy"))["ISTIO_KUBE_APP_PROBERS"]
	if err := json.Unmarshal([]byte(text), &probers); err != nil {
		t.Fatalf("ISTIO_KUBE_APP_PROBERS: %v: %q", err, text)
	}
	originals := map[string]askedAt{}
	for path, prober := range probers {
		originals[path] = askedAt{prober.HTTPGet.Path, prober.HTTPGet.Port.IntVal}
	}
	for path, original := range map[string]string{"startupz": "/startupz", "readyz": "/readyz", "livez": "/livez"} {
		if got, want := originals["/app-health/app/"+path], (askedAt{original, 15099}); got != want {
			t.Errorf("the agent asks at %v for %s, expected %v", got, path, want)
		}
	}
	if len(originals) != 3 {
		t.Errorf("the agent knows %v, expected the three probes", originals)
	}
}

func TestAHookByExecIsLeftAlone(t *testing.T) {
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	pod := injected(t, built(t, exampleShop).one(t, "Deployment"))
	hook := containerOf(t, pod, "app").Lifecycle.PreStop
	if hook.Exec == nil || hook.HTTPGet != nil ||
		!strings.Contains(strings.Join(hook.Exec.Command, " "), "127.0.0.1:15099/drainz") {
		t.Errorf("the preStop hook is %v, expected the order to drain as it was written", hook)
	}
}

// edited is the Deployment after a change to its Pod.
func edited(t *testing.T, text string, change func(pod *corev1.PodTemplateSpec)) string {
	t.Helper()
	var deployment appsv1.Deployment
	if err := yaml.Unmarshal([]byte(text), &deployment); err != nil {
		t.Fatal(err)
	}
	change(&deployment.Spec.Template)
	document, err := yaml.Marshal(deployment)
	if err != nil {
		t.Fatal(err)
	}
	return string(document)
}

func drainByHTTPGet(pod *corev1.PodTemplateSpec) {
	app := &pod.Spec.Containers[0]
	get := app.ReadinessProbe.HTTPGet.DeepCopy()
	get.Path = "/drainz"
	app.Lifecycle.PreStop = &corev1.LifecycleHandler{HTTPGet: get}
}

func TestAHookByHTTPGetIsRewrittenToo(t *testing.T) {
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	pod := injected(t, edited(t, built(t, exampleShop).one(t, "Deployment"), drainByHTTPGet))
	hook := containerOf(t, pod, "app").Lifecycle.PreStop
	if hook.HTTPGet == nil || hook.HTTPGet.Path != "/app-lifecycle/app/prestopz" || hook.HTTPGet.Port.IntVal != 15020 {
		t.Errorf("the preStop hook is %v, expected one that asks the agent", hook)
	}
}

func TestTheModuleIsMountedFromAConfigMapIntoTheSidecarAlone(t *testing.T) {
	modes := []features.NativeSidecarMode{features.NativeSidecarModeDisabled, features.NativeSidecarModeEnabled}
	for _, mode := range modes {
		nativeSidecars(t, mode)
		pod := injected(t, built(t, exampleShop).one(t, "Deployment"))
		source := ""
		for _, volume := range pod.Spec.Volumes {
			if volume.Name == "graygate" && volume.ConfigMap != nil {
				source = volume.ConfigMap.Name
			}
		}
		if source != "graygate-wasm" {
			t.Errorf("%v: the volume graygate is of ConfigMap %q, expected graygate-wasm", mode, source)
		}
		mounted := ""
		for _, mount := range containerOf(t, pod, "istio-proxy").VolumeMounts {
			if mount.Name == "graygate" && mount.ReadOnly {
				mounted = mount.MountPath
			}
		}
		// Where the EnvoyFilters look.
		if mounted != "/etc/istio/extensions" {
			t.Errorf("%v: the module is mounted at %q, expected /etc/istio/extensions, read-only", mode, mounted)
		}
		for _, mount := range containerOf(t, pod, "app").VolumeMounts {
			if mount.Name == "graygate" {
				t.Errorf("%v: the app has the module, too", mode)
			}
		}
	}
}

func TestANativeSidecarIsUpBeforeTheAppAndEndsAfterIt(t *testing.T) {
	isNative := func(pod *corev1.PodTemplateSpec) bool {
		for _, container := range pod.Spec.InitContainers {
			if container.Name == "istio-proxy" {
				return container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
			}
		}
		return false
	}
	nativeSidecars(t, features.NativeSidecarModeEnabled)
	pod := injected(t, built(t, exampleShop).one(t, "Deployment"))
	if !isNative(pod) {
		t.Fatal("the sidecar is no init container that restarts")
	}
	proxy := containerOf(t, pod, "istio-proxy")
	// The app starts once this has passed, and this passes once Envoy has its listeners.
	if got, want := target(proxy.StartupProbe), (askedAt{"/healthz/ready", 15021}); got != want {
		t.Errorf("the sidecar's startup probe asks at %v, expected %v", got, want)
	}
	if hook := strings.Join(proxy.Lifecycle.PreStop.Exec.Command, " "); !strings.HasSuffix(hook, "POST drain") {
		t.Errorf("the sidecar's preStop hook is %q, expected an order to drain", hook)
	}
	got, want := target(containerOf(t, pod, "app").ReadinessProbe), (askedAt{"/app-health/app/readyz", 15020})
	if got != want {
		t.Errorf("the kubelet asks at %v, expected %v", got, want)
	}

	// By the Pod's own word, whatever the mesh's is.
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	annotated := edited(t, built(t, exampleShop).one(t, "Deployment"), func(pod *corev1.PodTemplateSpec) {
		pod.Annotations["sidecar.istio.io/nativeSidecar"] = "true"
	})
	if !isNative(injected(t, annotated)) {
		t.Error("the annotation sidecar.istio.io/nativeSidecar: \"true\" is not followed")
	}
	if isNative(injected(t, built(t, exampleShop).one(t, "Deployment"))) {
		t.Error("the sidecar is a native one though neither the mesh nor the Pod wants it")
	}
}

func TestWithRewritingOffProbesStayAsTheyAreWritten(t *testing.T) {
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	pod := injected(t, built(t, portLevelMTLS).one(t, "Deployment"))
	app := containerOf(t, pod, "app")
	for path, probe := range map[string]*corev1.Probe{
		"/startupz": app.StartupProbe, "/readyz": app.ReadinessProbe, "/livez": app.LivenessProbe,
	} {
		if got, want := target(probe), (askedAt{path, 8081}); got != want {
			t.Errorf("the kubelet asks at %v, expected %v", got, want)
		}
	}
	if probers := environment(containerOf(t, pod, "istio-proxy"))["ISTIO_KUBE_APP_PROBERS"]; probers != "" {
		t.Errorf("the agent knows probes that nobody asks it for: %s", probers)
	}
}

func TestASidecarOutlivesTheHookThatDrainsTheApp(t *testing.T) {
	nativeSidecars(t, features.NativeSidecarModeDisabled)
	pod := injected(t, built(t, exampleShop).one(t, "Deployment"))
	var config struct{ TerminationDrainDuration string }
	text := environment(containerOf(t, pod, "istio-proxy"))["PROXY_CONFIG"]
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("PROXY_CONFIG: %v: %q", err, text)
	}
	// More than the hook's 15 s, less than the Pod's 40 s.
	if config.TerminationDrainDuration != "25s" || *pod.Spec.TerminationGracePeriodSeconds != 40 {
		t.Errorf("the sidecar stays for %q of the Pod's %d s, expected 25s of 40", config.TerminationDrainDuration,
			*pod.Spec.TerminationGracePeriodSeconds)
	}
}
