// Command probe is what the cluster's own tests run in a pod: a server that tells what the pod can see.
//
//	GET /            who answers: the pod's name
//	GET /lookup?NAME the addresses of a name, by the cluster's DNS
//	GET /burn        a second of one core's work, so that there is something to measure
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintln(answer, name)
	})
	http.HandleFunc("/lookup", func(answer http.ResponseWriter, request *http.Request) {
		addresses, err := net.DefaultResolver.LookupHost(request.Context(), request.URL.RawQuery)
		if err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(answer, addresses)
	})
	http.HandleFunc("/burn", func(http.ResponseWriter, *http.Request) {
		for start := time.Now(); time.Since(start) < time.Second; {
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
