// Go's net/http as an SSE server, HTTP/2 and HTTP/1.1 over TLS:
//
//	server -protocol h2 -addr 127.0.0.1:8443 -cert FILE -key FILE -max-streams 100000
//
// A goroutine and a channel a tab, as in gorilla/websocket's chat example: a tab whose channel is
// full is ended, and its EventSource reconnects.  golang.org/x/net/http2 is what net/http bundles;
// only there can the 250 streams a connection be raised before Go 1.24.
package main

import (
	"crypto/tls"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/net/http2"
)

// Events that may wait for a tab; the chat example's number.
const backlogEvents = 256

type tab chan string

// hub holds the tabs of each topic.
type hub struct {
	mutex  sync.Mutex
	topics map[string]map[tab]struct{}
}

func (h *hub) join(topic string) tab {
	t := make(tab, backlogEvents)
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.topics[topic] == nil {
		h.topics[topic] = map[tab]struct{}{}
	}
	h.topics[topic][t] = struct{}{}
	return t
}

func (h *hub) leave(topic string, t tab) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.topics[topic], t)
}

func (h *hub) publish(topic, event string) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for t := range h.topics[topic] {
		select {
		case t <- event:
		default:
			delete(h.topics[topic], t)
			close(t)
		}
	}
}

func (h *hub) serveEvents(w http.ResponseWriter, r *http.Request) {
	topic := r.URL.Query().Get("topic")
	flusher := w.(http.Flusher)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	t := h.join(topic)
	defer h.leave(topic, t)
	io.WriteString(w, ": hello\n\n")
	flusher.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case event, open := <-t:
			if !open {
				return
			}
			if _, err := io.WriteString(w, event); err != nil {
				return
			}
			flusher.Flush()
		}
	}
}

func (h *hub) servePublish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.publish(form.Get("topic"), "data: "+form.Get("data")+"\n\n")
	w.WriteHeader(http.StatusNoContent)
}

func main() {
	protocol := flag.String("protocol", "h2", `"h2", or "http/1.1" to offer nothing else by ALPN`)
	addr := flag.String("addr", "127.0.0.1:8443", "address to listen at")
	cert := flag.String("cert", "cert.pem", "certificate")
	key := flag.String("key", "key.pem", "its key")
	maxStreams := flag.Uint("max-streams", 250, "SETTINGS_MAX_CONCURRENT_STREAMS")
	flag.Parse()

	h := &hub{topics: map[string]map[tab]struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/events", h.serveEvents)
	mux.HandleFunc("/publish", h.servePublish)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "an SSE server\n")
	})

	// No timeouts are set, and none is the default.
	server := &http.Server{
		Addr:    *addr,
		Handler: mux,
		// Each connection that breaks off would be a line.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	if *protocol == "http/1.1" {
		// As net/http documents it: a map that is empty, not nil, turns HTTP/2 off.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	} else {
		settings := &http2.Server{
			MaxConcurrentStreams: uint32(*maxStreams),
			// Before x/net 0.11 and Go 1.23 the default is by RFC 7540's priorities, which Go has given
			// up as slow (golang/go#58804, #67706): with 5,000 streams, ten times the CPU an event.
			NewWriteScheduler: http2.NewRandomWriteScheduler,
		}
		if err := http2.ConfigureServer(server, settings); err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(server.ListenAndServeTLS(*cert, *key))
}
