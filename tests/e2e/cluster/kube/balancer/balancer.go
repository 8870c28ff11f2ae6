// Package balancer gives Services of type LoadBalancer an address, as a cloud's controller does: with a finalizer, and
// whatever their class. kube-proxy then serves the address on every node, so that nothing else has to balance.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const finalizer = "service.kubernetes.io/load-balancer-cleanup"

// NewCommand is `balancer --kubeconfig FILE --pool CIDR`.
func NewCommand() *cobra.Command {
	var kubeconfig, pool string
	command := &cobra.Command{
		Use:           "balancer",
		Short:         "Gives Services of type LoadBalancer an address from a pool",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			addresses, err := netip.ParsePrefix(pool)
			if err != nil {
				return fmt.Errorf("--pool: %w", err)
			}
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return run(command.Context(), client, addresses)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	command.Flags().StringVar(&pool, "pool", "", "network whose addresses are given out, the first one excepted")
	return command
}

type controller struct {
	client   kubernetes.Interface
	services listers.ServiceLister
	pool     netip.Prefix
	given    map[string]netip.Addr // by the Service's namespace/name; only the one worker touches it
}

func run(ctx context.Context, client kubernetes.Interface, pool netip.Prefix) error {
	if ctx == nil {
		ctx = context.Background()
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 5*time.Second))
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			queue.Add(key)
		}
	}
	if _, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, now any) { enqueue(now) },
		DeleteFunc: enqueue,
	}); err != nil {
		return err
	}
	c := &controller{client: client, services: services.Lister(), pool: pool, given: map[string]netip.Addr{}}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := c.remember(); err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	for {
		key, stop := queue.Get()
		if stop {
			return nil
		}
		if err := c.reconcile(ctx, key); err != nil {
			if !apierrors.IsConflict(err) { // a newer version of the Service is on its way
				klog.ErrorS(err, "Service has no address yet", "service", key)
			}
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// remember takes note of the addresses that an earlier run gave out.
func (c *controller) remember() error {
	services, err := c.services.List(labels.Everything())
	for _, service := range services {
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if address, err := netip.ParseAddr(ingress.IP); err == nil {
				c.given[service.Namespace+"/"+service.Name] = address
			}
		}
	}
	return err
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	found, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		delete(c.given, key)
		return nil
	}
	if err != nil {
		return err
	}
	service := found.DeepCopy()
	if service.Spec.Type != core.ServiceTypeLoadBalancer || service.DeletionTimestamp != nil {
		return c.release(ctx, key, service)
	}
	if !slices.Contains(service.Finalizers, finalizer) {
		service.Finalizers = append(service.Finalizers, finalizer)
		_, err = c.client.CoreV1().Services(namespace).Update(ctx, service, meta.UpdateOptions{})
		return err // the update comes back as an event
	}
	if len(service.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	address, err := c.choose(key)
	if err != nil {
		return err
	}
	service.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{IP: address.String()}}
	_, err = c.client.CoreV1().Services(namespace).UpdateStatus(ctx, service, meta.UpdateOptions{})
	return err
}

// release takes the address back from a Service that goes, or that no longer wants one.
func (c *controller) release(ctx context.Context, key string, service *core.Service) error {
	delete(c.given, key)
	if !slices.Contains(service.Finalizers, finalizer) {
		return nil
	}
	services := c.client.CoreV1().Services(service.Namespace)
	if len(service.Status.LoadBalancer.Ingress) > 0 {
		service.Status.LoadBalancer = core.LoadBalancerStatus{}
		_, err := services.UpdateStatus(ctx, service, meta.UpdateOptions{})
		return err // the update comes back as an event
	}
	service.Finalizers = slices.DeleteFunc(service.Finalizers, func(name string) bool { return name == finalizer })
	_, err := services.Update(ctx, service, meta.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// choose returns the Service's address, or the lowest one that is free.
func (c *controller) choose(key string) (netip.Addr, error) {
	if address, known := c.given[key]; known {
		return address, nil
	}
	taken := map[netip.Addr]bool{}
	for _, address := range c.given {
		taken[address] = true
	}
	for address := c.pool.Masked().Addr().Next(); c.pool.Contains(address); address = address.Next() {
		if !taken[address] {
			c.given[key] = address
			return address, nil
		}
	}
	return netip.Addr{}, errors.New("every address of the pool is taken")
}
