package apiserver

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/cel-go/common/types"
	requestv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubernetes "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/admission"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// oldest is the first release of Kubernetes whose API server reads the rule.
var oldest = kubernetes.MajorMinor(1, 30)

// rule is a ValidatingAdmissionPolicy, compiled as an API server does.
type rule struct {
	policy      *admissionv1.ValidatingAdmissionPolicy
	matcher     matchconditions.Matcher
	validations admissioncel.ConditionEvaluator
	messages    admissioncel.ConditionEvaluator
}

// documents returns the documents of a YAML stream.
func documents(t testing.TB, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var document map[string]any
		if err := decoder.Decode(&document); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if document != nil {
			all = append(all, document)
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rules returns the shipped rules, compiled for a release of Kubernetes.
func rules(t testing.TB, release *kubernetes.Version) []rule {
	t.Helper()
	var all []rule
	for _, document := range documents(t, read(t, "../../istio/base/admission/manifest.yaml")) {
		if document["kind"] != "ValidatingAdmissionPolicy" {
			continue
		}
		policy := &admissionv1.ValidatingAdmissionPolicy{}
		converter := runtime.DefaultUnstructuredConverter
		if err := converter.FromUnstructuredWithValidation(document, policy, true); err != nil {
			t.Fatal(err)
		}
		all = append(all, compile(t, policy, release))
	}
	if len(all) != 2 {
		t.Fatalf("%d rules", len(all))
	}
	return all
}

// compile does what the API server's plugin does with a policy. It takes only functions that the release has.
func compile(t testing.TB, policy *admissionv1.ValidatingAdmissionPolicy, release *kubernetes.Version) rule {
	t.Helper()
	compiler, err := admissioncel.NewCompositedCompiler(environment.MustBaseEnvSet(release))
	if err != nil {
		t.Fatal(err)
	}
	options := admissioncel.OptionalVariableDeclarations{HasAuthorizer: true}
	for _, variable := range policy.Spec.Variables {
		accessor := &validating.Variable{Name: variable.Name, Expression: variable.Expression}
		result := compiler.CompileAndStoreVariable(accessor, options, environment.NewExpressions)
		if result.Error != nil {
			t.Errorf("%s: variable %s: %s", policy.Name, variable.Name, result.Error.Detail)
		}
	}
	condition := func(kind string, accessors []admissioncel.ExpressionAccessor) admissioncel.ConditionEvaluator {
		for _, accessor := range accessors {
			result := compiler.CompileCELExpression(accessor, options, environment.NewExpressions)
			if result.Error != nil {
				t.Errorf("%s: %s: %s: %s", policy.Name, kind, accessor.GetExpression(), result.Error.Detail)
			}
		}
		return compiler.CompileCondition(accessors, options, environment.NewExpressions)
	}
	var conditions, validations, messages []admissioncel.ExpressionAccessor
	for i := range policy.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
	}
	for _, validation := range policy.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{
			Expression: validation.Expression, Message: validation.Message,
		})
		messages = append(messages, &validating.MessageExpressionCondition{
			MessageExpression: validation.MessageExpression,
		})
	}
	matching := condition("match condition", conditions)
	compiled := rule{
		policy:      policy,
		matcher:     matchconditions.NewMatcher(matching, policy.Spec.FailurePolicy, "policy", "validate", policy.Name),
		validations: condition("validation", validations),
		messages:    condition("message", messages),
	}
	if t.Failed() {
		t.FailNow()
	}
	return compiled
}

// group returns the API group of an object.
func group(object map[string]any) string {
	before, _, _ := strings.Cut(object["apiVersion"].(string), "/")
	return before
}

// attributes returns the request to create an object, or to update an older one to it.
func attributes(object, old map[string]any) *admission.VersionedAttributes {
	it := &unstructured.Unstructured{Object: object}
	kind := it.GroupVersionKind()
	resource := schema.GroupVersionResource{
		Group: kind.Group, Version: kind.Version, Resource: strings.ToLower(kind.Kind) + "s",
	}
	operation, before := admission.Create, runtime.Object(nil)
	if old != nil {
		operation, before = admission.Update, &unstructured.Unstructured{Object: old}
	}
	record := admission.NewAttributesRecord(
		it, before, kind, it.GetNamespace(), it.GetName(), resource, "", operation, nil, false, nil,
	)
	return &admission.VersionedAttributes{
		Attributes: record, VersionedKind: kind, VersionedObject: it, VersionedOldObject: before,
	}
}

// judgement is what the rules say about a request.
type judgement struct {
	// The messages of the validations that refuse it.
	refused []string
	// The errors of evaluation, by which a validation is left out.
	failed []string
	// Whether a rule is about the request.
	judged bool
}

// judge evaluates the rules on the request, as an API server does.
func judge(t testing.TB, rules []rule, request *admission.VersionedAttributes) judgement {
	t.Helper()
	return judgeWithin(celconfig.RuntimeCELCostBudget, rules, request)
}

// judgeWithin does the same with this budget.
func judgeWithin(budget int64, rules []rule, request *admission.VersionedAttributes) judgement {
	var all judgement
	for _, rule := range rules {
		if rule.policy.Spec.MatchConstraints.ResourceRules[0].APIGroups[0] != request.GetKind().Group {
			continue
		}
		matched := rule.matcher.Match(context.Background(), request, nil, nil)
		if matched.Error != nil {
			all.failed = append(all.failed, "match condition: "+matched.Error.Error())
		}
		if !matched.Matches {
			continue
		}
		all.judged = true
		validator := validating.NewValidator(rule.validations, nil, none{}, rule.messages, rule.policy.Spec.FailurePolicy, nil)
		result := validator.Validate(
			context.Background(), request.GetResource(), request, nil, nil, budget, nil,
		)
		for i, decision := range result.Decisions {
			switch decision.Evaluation {
			case validating.EvalDeny:
				all.refused = append(all.refused, decision.Message)
			case validating.EvalError:
				all.failed = append(all.failed, rule.policy.Spec.Validations[i%len(rule.policy.Spec.Validations)].Expression+": "+decision.Message)
			}
		}
	}
	return all
}

// none stands for no audit annotations.
type none struct{}

func (none) ForInput(
	_ context.Context, _ *admission.VersionedAttributes, _ *requestv1.AdmissionRequest,
	_ admissioncel.OptionalVariableBindings, _ *corev1.Namespace, budget int64,
) ([]admissioncel.EvaluationResult, int64, error) {
	return nil, budget, nil
}

func (none) CompilationErrors() []error { return nil }

// costs returns what the validations and the messages cost for a request, which all of them accept.
func costs(t testing.TB, rule rule, request *admission.VersionedAttributes) (validations, messages int64) {
	t.Helper()
	resource, kind := metav1.GroupVersionResource(request.GetResource()), metav1.GroupVersionKind(request.GetKind())
	admitted := admissioncel.CreateAdmissionRequest(request.Attributes, resource, kind)
	var found [2]int64
	for i, condition := range []admissioncel.ConditionEvaluator{rule.validations, rule.messages} {
		results, left, err := condition.ForInput(
			context.Background(), request, admitted, admissioncel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget,
		)
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range results {
			if result.Error != nil || i == 0 && result.EvalResult != types.True {
				t.Errorf("%s: %v, %v", result.ExpressionAccessor.GetExpression(), result.EvalResult, result.Error)
			}
		}
		found[i] = celconfig.RuntimeCELCostBudget - left
	}
	return found[0], found[1]
}
