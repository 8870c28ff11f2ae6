// Command load sends one prediction at a constant rate, open loop, and tells what came back: every distinct answer with
// how often, when first and when last. It ends after its duration, or when its standard input does.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Answer is what came back some number of times.
type Answer struct {
	Code  uint16 `json:"code"` // 0: none, and Error says why
	Error string `json:"error"`
	Body  string `json:"body"`
}

// Seen is how often an answer came, and the moments when the first and the last of its requests were sent.
type Seen struct {
	Answer
	Count int     `json:"count"`
	First float64 `json:"first"`
	Last  float64 `json:"last"`
}

// Report is the whole attack.
type Report struct {
	Requests uint64  `json:"requests"`
	Rate     float64 `json:"rate"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	Max      float64 `json:"max"`
	Seen     []*Seen `json:"seen"`
}

func main() {
	address := flag.String("url", "", "where to")
	body := flag.String("body", "", "JSON of the prediction")
	rate := flag.Int("rate", 50, "requests a second")
	duration := flag.Duration("duration", time.Minute, "the longest it takes")
	timeout := flag.Duration("timeout", 10*time.Second, "for one request")
	reuse := flag.Bool("reuse", true, "keep connections open")
	flag.Parse()

	target := vegeta.Target{
		Method: http.MethodPost,
		URL:    *address,
		Body:   []byte(*body),
		Header: http.Header{"Content-Type": {"application/json"}},
	}
	attacker := vegeta.NewAttacker(vegeta.KeepAlive(*reuse), vegeta.Timeout(*timeout), vegeta.MaxWorkers(256),
		vegeta.Proxy(func(*http.Request) (*url.URL, error) { return nil, nil }))
	go func() {
		io.Copy(io.Discard, os.Stdin)
		attacker.Stop()
	}()

	var metrics vegeta.Metrics
	seen := map[Answer]*Seen{}
	report := Report{Seen: []*Seen{}}
	targeter := vegeta.NewStaticTargeter(target)
	for result := range attacker.Attack(targeter, vegeta.Rate{Freq: *rate, Per: time.Second}, *duration, "load") {
		metrics.Add(result)
		answer := Answer{Code: result.Code, Error: result.Error, Body: string(result.Body)}
		at := float64(result.Timestamp.UnixNano()) / 1e9
		found := seen[answer]
		if found == nil {
			found = &Seen{Answer: answer, First: at}
			seen[answer] = found
			report.Seen = append(report.Seen, found)
		}
		found.Count++
		found.First, found.Last = min(found.First, at), max(found.Last, at)
	}
	metrics.Close()
	report.Requests, report.Rate = metrics.Requests, metrics.Rate
	report.P50, report.P99 = metrics.Latencies.P50.Seconds(), metrics.Latencies.P99.Seconds()
	report.Max = metrics.Latencies.Max.Seconds()
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
