package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"flanneld/dist/kubernetes"
)

// CreateNode creates a Node of that name, with these podCIDRs if there are any.
func (k *Kube) CreateNode(ctx context.Context, name string, podCIDRs ...string) (*corev1.Node, error) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if len(podCIDRs) > 0 {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = podCIDRs[0], podCIDRs
	}
	return k.Create(ctx, n)
}

// KubeletStatus is a status of the size that Nodes have, most of which is the list of images.
func KubeletStatus() corev1.NodeStatus {
	var s corev1.NodeStatus
	for i := range 20 {
		s.Images = append(s.Images, corev1.ContainerImage{
			Names: []string{fmt.Sprintf("example.org/image-%d@sha256:%s", i, strings.Repeat("ab", 32))}, SizeBytes: 1 << 40,
		})
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		s.Conditions = append(s.Conditions, corev1.NodeCondition{
			Type: kind, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.Unix(1700000001, 0),
			Reason: "Kubelet", Message: "kubelet has sufficient memory available",
		})
	}
	s.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi")}
	s.NodeInfo.KubeletVersion = "v1.34.4"
	return s
}

// Create creates a Node as it is given, with its status, as kubelet does.
func (k *Kube) Create(ctx context.Context, n *corev1.Node) (*corev1.Node, error) {
	created := &corev1.Node{}
	if err := k.REST.Post().Resource("nodes").Body(n).Do(ctx).Into(created); err != nil {
		return nil, fmt.Errorf("creating Node %s: %w", n.Name, err)
	}
	return created, nil
}

// Node returns a Node as it is now.
func (k *Kube) Node(ctx context.Context, name string) (*corev1.Node, error) {
	n := &corev1.Node{}
	if err := k.REST.Get().Resource("nodes").Name(name).Do(ctx).Into(n); err != nil {
		return nil, fmt.Errorf("reading Node %s: %w", name, err)
	}
	return n, nil
}

// DeleteNode deletes a Node.
func (k *Kube) DeleteNode(ctx context.Context, name string) error {
	if err := k.REST.Delete().Resource("nodes").Name(name).Do(ctx).Error(); err != nil {
		return fmt.Errorf("deleting Node %s: %w", name, err)
	}
	return nil
}

// PatchNode changes a Node, as a merge patch says: what is nil goes.
func (k *Kube) PatchNode(ctx context.Context, name string, patch map[string]any) error {
	return k.patchNode(ctx, types.MergePatchType, name, "", patch)
}

// PatchNodeStatus changes a Node's status as kubelet does: what is given of a condition
// replaces that of the same type.
func (k *Kube) PatchNodeStatus(ctx context.Context, name string, patch map[string]any) error {
	return k.patchNode(ctx, types.StrategicMergePatchType, name, "status", patch)
}

func (k *Kube) patchNode(ctx context.Context, kind types.PatchType, name, part string, patch map[string]any) error {
	text, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("patching Node %s: %w", name, err)
	}
	if err := k.REST.Patch(kind).Resource("nodes").Name(name).SubResource(part).Body(text).Do(ctx).Error(); err != nil {
		return fmt.Errorf("patching Node %s: %w", name, err)
	}
	return nil
}

// Annotate changes annotations of a Node; what is nil goes.
func (k *Kube) Annotate(ctx context.Context, name string, annotations map[string]any) error {
	return k.PatchNode(ctx, name, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

// SetPodCIDRs gives a Node its subnets. Kubernetes accepts that once, for a Node without any.
func (k *Kube) SetPodCIDRs(ctx context.Context, name string, podCIDRs ...string) error {
	return k.PatchNode(ctx, name, map[string]any{"spec": map[string]any{"podCIDR": podCIDRs[0], "podCIDRs": podCIDRs}})
}

// Heartbeat says that a Node's kubelet is alive, as that does every few minutes or seconds.
func (k *Kube) Heartbeat(ctx context.Context, name string) error {
	return k.PatchNodeStatus(ctx, name, map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
		Message: "kubelet is posting ready status", LastHeartbeatTime: metav1.NewTime(k.nextHeartbeat()),
	}}}})
}

// nextHeartbeat is another second than that of the last one: the server takes what changes
// nothing for nothing.
func (k *Kube) nextHeartbeat() time.Time {
	return time.Now().Add(time.Duration(k.heartbeats.Add(1)) * time.Second)
}

// Token returns a token of a service account.
func (k *Kube) Token(ctx context.Context, namespace, account string) (string, error) {
	text, err := k.REST.Post().Namespace(namespace).Resource("serviceaccounts").Name(account).SubResource("token").
		SetHeader("Content-Type", "application/json").
		Body([]byte(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}`)).DoRaw(ctx)
	var answer struct{ Status struct{ Token string } }
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("requesting a token for the service account %s: %w", account, err)
	}
	return answer.Status.Token, nil
}

// FlannelRBAC is what lets a daemon do what it needs, and nothing else, of the manifest that
// users have: the service account flannel in the namespace kube-flannel, and its roles.
var FlannelRBAC = only(kubernetes.Manifest, "Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")

// only returns the objects of a manifest that are of these kinds.
func only(manifest []byte, kinds ...string) []byte {
	var all []string
	for _, document := range splitDocuments(manifest) {
		if slices.ContainsFunc(kinds, func(kind string) bool { return strings.Contains(document, "\nkind: "+kind+"\n") }) {
			all = append(all, document)
		}
	}
	return []byte(strings.Join(all, "\n---\n"))
}

// FlannelToken applies FlannelRBAC and returns a token of its service account, once the server
// goes by the roles.
func (k *Kube) FlannelToken(ctx context.Context) (string, error) {
	if err := k.Apply(ctx, FlannelRBAC); err != nil {
		return "", err
	}
	token, err := k.Token(ctx, "kube-flannel", "flannel")
	if err != nil {
		return "", err
	}
	// The server learns of new roles by a watch of its own.
	for {
		err := k.REST.Get().Resource("nodes").Param("limit", "1").SetHeader("Authorization", "Bearer "+token).Do(ctx).Error()
		if !apierrors.IsForbidden(err) {
			return token, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the roles of flannel: %w", err)
		}
	}
}

// WriteKubeconfig writes a file that leads to the API, as whoever has the token.
func (k *Kube) WriteKubeconfig(file, token string) error {
	return k.WriteKubeconfigFor(file, k.URL(), token)
}

// WriteKubeconfigFor is WriteKubeconfig where the API is reached by another URL.
func (k *Kube) WriteKubeconfigFor(file, url, token string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster:
    server: %s
    certificate-authority: %s
users:
- name: lab
  user:
    token: %s
contexts:
- name: lab
  context:
    cluster: lab
    user: lab
current-context: lab
`, url, k.CA.Cert, token)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

// Apply has all objects of a manifest as it says, as `kubectl apply --server-side` does.
func (k *Kube) Apply(ctx context.Context, manifest []byte) error {
	return k.apply(ctx, manifest, nil)
}

// DryApply has the server check a manifest, and do nothing.
func (k *Kube) DryApply(ctx context.Context, manifest []byte) error {
	return k.apply(ctx, manifest, map[string]string{"dryRun": "All"})
}

func (k *Kube) apply(ctx context.Context, manifest []byte, params map[string]string) error {
	objects, err := k.objects(ctx, manifest)
	if err != nil {
		return err
	}
	for _, o := range objects {
		req := k.REST.Patch(types.ApplyYAMLPatchType).AbsPath(o.path).
			Param("fieldManager", "lab").Param("force", "true").Param("fieldValidation", "Strict").Body(o.text)
		for name, value := range params {
			req.Param(name, value)
		}
		if err := req.Do(ctx).Error(); err != nil {
			return fmt.Errorf("applying %s %s: %w", o.Kind, o.Name, err)
		}
	}
	return nil
}

// Remove deletes all objects of a manifest.
func (k *Kube) Remove(ctx context.Context, manifest []byte) error {
	objects, err := k.objects(ctx, manifest)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := k.REST.Delete().AbsPath(o.path).Do(ctx).Error(); err != nil {
			return fmt.Errorf("deleting %s %s: %w", o.Kind, o.Name, err)
		}
	}
	return nil
}

// object is one of a manifest.
type object struct {
	metav1.TypeMeta
	metav1.ObjectMeta `json:"metadata"`

	path string
	text []byte // in JSON
}

// objects splits a manifest, and asks the server where such objects are.
func (k *Kube) objects(ctx context.Context, manifest []byte) ([]object, error) {
	var all []object
	for _, document := range splitDocuments(manifest) {
		text, err := yaml.ToJSON([]byte(document))
		if err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		o := object{text: text}
		if err := json.Unmarshal(text, &o); err != nil {
			return nil, fmt.Errorf("reading a manifest: %w", err)
		}
		if o.Kind == "" { // nothing but comments
			continue
		}
		if o.path, err = k.pathOf(ctx, o); err != nil {
			return nil, fmt.Errorf("looking up where a %s is: %w", o.Kind, err)
		}
		all = append(all, o)
	}
	if len(all) == 0 {
		return nil, errors.New("there is nothing in the manifest")
	}
	return all, nil
}

// splitDocuments splits what `---` on a line of its own separates.
func splitDocuments(manifest []byte) []string {
	return strings.Split("\n"+string(manifest), "\n---\n")
}

// pathOf asks the server which resource an object is of.
func (k *Kube) pathOf(ctx context.Context, o object) (string, error) {
	root := "/apis/" + o.APIVersion
	if !strings.Contains(o.APIVersion, "/") {
		root = "/api/" + o.APIVersion
	}
	text, err := k.REST.Get().AbsPath(root).SetHeader("Accept", "application/json").DoRaw(ctx)
	var list metav1.APIResourceList
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		return "", err
	}
	for _, r := range list.APIResources {
		switch {
		case r.Kind != o.Kind || strings.Contains(r.Name, "/"):
		case !r.Namespaced:
			return path.Join(root, r.Name, o.Name), nil
		default:
			return path.Join(root, "namespaces", o.Namespace, r.Name, o.Name), nil
		}
	}
	return "", fmt.Errorf("%s has no such kind", o.APIVersion)
}
