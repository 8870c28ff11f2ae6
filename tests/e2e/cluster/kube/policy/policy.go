// Package policy enforces NetworkPolicies on one node by its packet filter. It knows what the API's version 1 knows, but
// for names of ports that differ between the targets of one rule. Traffic of the node itself passes always, as the API has it: the kubelet's probes are such.
package policy

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	chain  = "POLICY"
	settle = 50 * time.Millisecond // for changes that come together
	again  = time.Second           // after a failure
)

// NewCommand is `policy --kubeconfig FILE`.
func NewCommand() *cobra.Command {
	var kubeconfig string
	command := &cobra.Command{
		Use:           "policy",
		Short:         "Enforces NetworkPolicies on this node",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(_ *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return run(context.Background(), client)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	return command
}

func run(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default: // noted already
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { note() },
		UpdateFunc: func(_, _ any) { note() },
		DeleteFunc: func(any) { note() },
	}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	last := ""
	for range changed {
		time.Sleep(settle)
		world, err := list(pods.Lister().List, namespaces.Lister().List, policies.Lister().List)
		if err != nil {
			return err
		}
		rules := world.rules()
		if rules == last {
			continue
		}
		if err := enforce(rules); err != nil {
			klog.ErrorS(err, "The packet filter did not take the rules")
			time.Sleep(again)
			note()
			continue
		}
		last = rules
	}
	return nil
}

// enforce replaces the rules at once, and sees that traffic to pods and to the node goes through them. They stand in the
// table mangle, which comes before filter: there kube-proxy puts its own rules first, and they accept.
func enforce(rules string) error {
	restore := exec.Command("iptables-restore", "--noflush", "--wait")
	restore.Stdin = strings.NewReader(rules)
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	for _, hook := range []string{"FORWARD", "INPUT"} {
		if exec.Command("iptables", "--table", "mangle", "--wait", "--check", hook, "--jump", chain).Run() == nil {
			continue
		}
		if out, err := exec.Command("iptables", "--table", "mangle", "--wait", "--insert", hook, "--jump", chain).CombinedOutput(); err != nil {
			return fmt.Errorf("iptables: %w: %s", err, out)
		}
	}
	return nil
}

// world is what the rules follow from.
type world struct {
	pods       []*core.Pod // those with an address
	namespaces map[string]labels.Set
	policies   []*networking.NetworkPolicy
}

func list(
	pods func(labels.Selector) ([]*core.Pod, error),
	namespaces func(labels.Selector) ([]*core.Namespace, error),
	policies func(labels.Selector) ([]*networking.NetworkPolicy, error),
) (*world, error) {
	w := &world{namespaces: map[string]labels.Set{}}
	found, err := pods(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, pod := range found {
		ended := pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
		if pod.Status.PodIP != "" && !pod.Spec.HostNetwork && !ended {
			w.pods = append(w.pods, pod)
		}
	}
	sort.Slice(w.pods, func(i, j int) bool { return w.pods[i].Status.PodIP < w.pods[j].Status.PodIP })
	spaces, err := namespaces(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, space := range spaces {
		w.namespaces[space.Name] = space.Labels
	}
	w.policies, err = policies(labels.Everything())
	sort.Slice(w.policies, func(i, j int) bool { return w.policies[i].UID < w.policies[j].UID })
	return w, err
}

// rules for iptables-restore. Each isolated pod has a chain a direction, which returns what a policy allows and drops the
// rest, so that a packet between two pods has to pass both.
func (w *world) rules() string {
	var chains, jumps, bodies strings.Builder
	for _, pod := range w.pods {
		for _, direction := range []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress} {
			isolated, allowed := w.allowed(pod, direction)
			if !isolated {
				continue
			}
			address, side := pod.Status.PodIP, "--destination"
			name := "POLICY-IN-" + address
			if direction == networking.PolicyTypeEgress {
				name, side = "POLICY-OUT-"+address, "--source"
			}
			fmt.Fprintf(&chains, ":%s - [0:0]\n", name)
			fmt.Fprintf(&jumps, "-A %s %s %s -j %s\n", chain, side, address, name)
			for _, match := range allowed {
				fmt.Fprintf(&bodies, "-A %s%s -j RETURN\n", name, match)
			}
			fmt.Fprintf(&bodies, "-A %s -j DROP\n", name)
		}
	}
	established := fmt.Sprintf("-A %s -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n", chain)
	head := fmt.Sprintf("*mangle\n:%s - [0:0]\n", chain)
	return head + chains.String() + established + jumps.String() + bodies.String() + "COMMIT\n"
}

// allowed says whether any policy isolates the pod in the direction, and the matches of all that they allow.
func (w *world) allowed(pod *core.Pod, direction networking.PolicyType) (isolated bool, matches []string) {
	for _, policy := range w.policies {
		if policy.Namespace != pod.Namespace || !selects(&policy.Spec.PodSelector, pod.Labels) {
			continue
		}
		for _, kind := range policy.Spec.PolicyTypes {
			isolated = isolated || kind == direction
		}
		if direction == networking.PolicyTypeIngress {
			for _, rule := range policy.Spec.Ingress {
				ports := matchPorts(rule.Ports, []*core.Pod{pod})
				matches = append(matches, cross(w.peers(policy.Namespace, rule.From, "--source"), ports)...)
			}
			continue
		}
		for _, rule := range policy.Spec.Egress {
			ports := matchPorts(rule.Ports, w.pods)
			matches = append(matches, cross(w.peers(policy.Namespace, rule.To, "--destination"), ports)...)
		}
	}
	return isolated, matches
}

// peers are the matches of the other side's addresses; one empty match when any is meant.
func (w *world) peers(namespace string, peers []networking.NetworkPolicyPeer, side string) []string {
	if len(peers) == 0 {
		return []string{""}
	}
	matches := []string{}
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			matches = append(matches, blocks(block, side)...)
			continue
		}
		for _, pod := range w.pods {
			if w.isPeer(namespace, peer, pod) {
				matches = append(matches, fmt.Sprintf(" %s %s", side, pod.Status.PodIP))
			}
		}
	}
	return matches
}

func (w *world) isPeer(namespace string, peer networking.NetworkPolicyPeer, pod *core.Pod) bool {
	if peer.NamespaceSelector == nil && pod.Namespace != namespace {
		return false
	}
	if peer.NamespaceSelector != nil && !selects(peer.NamespaceSelector, w.namespaces[pod.Namespace]) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)
}

// blocks are the matches of a network without its exceptions.
func blocks(block *networking.IPBlock, side string) []string {
	network, err := netip.ParsePrefix(block.CIDR)
	if err != nil || !network.Addr().Is4() { // pods have version 4 addresses here
		return nil
	}
	rest := []netip.Prefix{network.Masked()}
	for _, text := range block.Except {
		if hole, err := netip.ParsePrefix(text); err == nil {
			left := []netip.Prefix{}
			for _, prefix := range rest {
				left = append(left, without(prefix, hole.Masked())...)
			}
			rest = left
		}
	}
	matches := []string{}
	for _, prefix := range rest {
		matches = append(matches, fmt.Sprintf(" %s %s", side, prefix))
	}
	return matches
}

// without halves the network until the hole is one of the parts.
func without(network, hole netip.Prefix) []netip.Prefix {
	if !network.Overlaps(hole) {
		return []netip.Prefix{network}
	}
	if hole.Bits() <= network.Bits() {
		return nil
	}
	bits, middle := network.Bits()+1, network.Addr().As4()
	middle[network.Bits()/8] |= 0x80 >> (network.Bits() % 8)
	lower, upper := netip.PrefixFrom(network.Addr(), bits), netip.PrefixFrom(netip.AddrFrom4(middle), bits)
	return append(without(lower, hole), without(upper, hole)...)
}

// matchPorts are the matches of the ports; one empty match when any is meant. A name means what it means to the targets.
func matchPorts(ports []networking.NetworkPolicyPort, targets []*core.Pod) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	matches := []string{}
	for _, port := range ports {
		protocol := core.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		match := " --protocol " + strings.ToLower(string(protocol))
		switch {
		case port.Port == nil:
			matches = append(matches, match)
		case port.Port.Type == intstr.String:
			for _, number := range named(port.Port.StrVal, protocol, targets) {
				matches = append(matches, fmt.Sprintf("%s --dport %d", match, number))
			}
		case port.EndPort != nil:
			matches = append(matches, fmt.Sprintf("%s --dport %d:%d", match, port.Port.IntVal, *port.EndPort))
		default:
			matches = append(matches, fmt.Sprintf("%s --dport %d", match, port.Port.IntVal))
		}
	}
	return matches
}

func named(name string, protocol core.Protocol, pods []*core.Pod) []int32 {
	numbers := []int32{}
	for _, pod := range pods {
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name == name && port.Protocol == protocol && !slices.Contains(numbers, port.ContainerPort) {
					numbers = append(numbers, port.ContainerPort)
				}
			}
		}
	}
	return numbers
}

func cross(peers, ports []string) []string {
	matches := []string{}
	for _, peer := range peers {
		for _, port := range ports {
			matches = append(matches, peer+port)
		}
	}
	return matches
}

func selects(selector *meta.LabelSelector, set labels.Set) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}
