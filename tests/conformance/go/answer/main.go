// answer ADDRESS   The server of the matrix on Go's net/http: HTTP/1.1, and HTTP/2 with prior knowledge.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// What belongs to a hop, or is the mesh's own: an application need not see it, or sees more than without a mesh.
var unseen = map[string]bool{
	"connection": true, "keep-alive": true, "transfer-encoding": true,
	"traceparent": true, "tracestate": true, "x-forwarded-client-cert": true,
}

func pattern(length int) []byte {
	bytes := make([]byte, length)
	for i := range bytes {
		bytes[i] = byte(i % 251)
	}
	return bytes
}

func echo(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	length, err := io.Copy(hash, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	seen := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		if lower := strings.ToLower(name); !unseen[lower] {
			seen[lower] = strings.Join(values, ", ")
		}
	}
	w.Header().Set("content-type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "target": r.RequestURI, "version": r.Proto, "headers": seen,
		"length": length, "declared": r.ContentLength, "sha256": hex.EncodeToString(hash.Sum(nil)),
	})
}

func answer(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(r.URL.Path, "/", 3)
	number := 0
	if len(parts) == 3 {
		number, _ = strconv.Atoi(parts[2])
	}
	switch parts[1] {
	case "echo":
		echo(w, r)
	case "bytes":
		w.Header().Set("content-length", strconv.Itoa(number))
		w.Header().Set("content-type", "application/octet-stream")
		w.Write(pattern(number))
	case "stream":
		w.Header().Set("content-type", "application/octet-stream")
		for range number {
			w.Write(pattern(1000))
			w.(http.Flusher).Flush()
		}
	case "status":
		io.Copy(io.Discard, r.Body)
		w.Header().Set("location", "/elsewhere")
		w.Header().Set("etag", `"1"`)
		w.Header().Set("content-type", "text/plain")
		w.WriteHeader(number)
		if number != 204 && number != 304 {
			fmt.Fprintf(w, "this is %d\n", number)
		}
	case "fields":
		w.Header().Add("set-cookie", "a=1; Path=/")
		w.Header().Add("set-cookie", "b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT")
		w.Header().Add("vary", "accept")
		w.Header().Add("vary", "cookie")
		w.Header().Set("x-empty", "")
		w.Header().Set("x-long", strings.Repeat("long ", 1000)+"end")
		w.Header().Set("content-type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "fields\n")
	default:
		http.NotFound(w, r)
	}
}

func main() {
	server := http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(answer), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(server.ListenAndServe())
}
