// ask 1|2 URL SCENARIOS   A client of the matrix on Go's net/http: what came of each scenario, as a line of JSON.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

type scenario struct {
	Name, Method, Path string
	Headers            map[string]string
	Body               *int
	Streamed           bool
}

// Hides a body's length from net/http.
type hidden struct{ io.Reader }

func ask(client *http.Client, url string, s scenario) map[string]any {
	var body io.Reader
	if s.Body != nil {
		pattern := make([]byte, *s.Body)
		for i := range pattern {
			pattern[i] = byte(i % 251)
		}
		body = bytes.NewReader(pattern)
		if s.Streamed {
			body = hidden{body}
		}
	}
	request, err := http.NewRequest(s.Method, url+s.Path, body)
	if err != nil {
		log.Fatal(err)
	}
	for name, value := range s.Headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return map[string]any{"name": s.Name, "error": err.Error()}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return map[string]any{"name": s.Name, "error": err.Error()}
	}
	headers := map[string]string{}
	for name, values := range response.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	told := map[string]any{"name": s.Name, "status": response.StatusCode, "version": response.Proto, "headers": headers, "length": len(content)}
	if len(content) < 4096 {
		told["text"] = string(content)
	} else {
		hash := sha256.Sum256(content)
		told["sha256"] = hex.EncodeToString(hash[:])
	}
	return told
}

func main() {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(os.Args[1] == "1")
	protocols.SetUnencryptedHTTP2(os.Args[1] == "2")
	client := &http.Client{
		Transport:     &http.Transport{Protocols: protocols},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	text, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	var scenarios []scenario
	if err := json.Unmarshal(text, &scenarios); err != nil {
		log.Fatal(err)
	}
	for _, s := range scenarios {
		json.NewEncoder(os.Stdout).Encode(ask(client, os.Args[2], s))
	}
}
