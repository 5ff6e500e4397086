// The server of the matrix on Java's com.sun.net.httpserver: Answer.java PORT. HTTP/1.1; it answers as go/answer does.
import com.google.gson.Gson;
import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Executors;

public class Answer {
    static final Set<String> UNSEEN =
        Set.of("connection", "keep-alive", "transfer-encoding", "traceparent", "tracestate", "x-forwarded-client-cert");

    static byte[] pattern(int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) bytes[i] = (byte) (i % 251);
        return bytes;
    }

    static void reply(HttpExchange exchange, int status, byte[] body) throws IOException {
        boolean bodiless = status == 204 || status == 304;
        boolean head = exchange.getRequestMethod().equals("HEAD");
        if (head && !bodiless) exchange.getResponseHeaders().set("content-length", Integer.toString(body.length));
        // To this server 0 means chunks and -1 no body.
        exchange.sendResponseHeaders(status, bodiless || head || body.length == 0 ? -1 : body.length);
        if (!bodiless && !head && body.length > 0) exchange.getResponseBody().write(body);
    }

    static byte[] text(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static byte[] echo(HttpExchange exchange, long length, byte[] hash) {
        Map<String, String> seen = new TreeMap<>();
        exchange.getRequestHeaders().forEach((name, values) -> {
            if (!UNSEEN.contains(name.toLowerCase())) seen.put(name.toLowerCase(), String.join(", ", values));
        });
        Map<String, Object> told = new LinkedHashMap<>();
        told.put("method", exchange.getRequestMethod());
        told.put("target", exchange.getRequestURI().toString());
        told.put("version", exchange.getProtocol());
        told.put("headers", seen);
        told.put("length", length);
        told.put("sha256", HexFormat.of().formatHex(hash));
        return text(new Gson().toJson(told));
    }

    static void stream(HttpExchange exchange, int number) throws IOException {
        exchange.sendResponseHeaders(200, 0);
        OutputStream out = exchange.getResponseBody();
        for (int sent = 0; sent < number; sent++) {
            out.write(pattern(1000));
            out.flush();
        }
    }

    static void answer(HttpExchange exchange) throws Exception {
        MessageDigest hash = MessageDigest.getInstance("SHA-256");
        InputStream body = exchange.getRequestBody();
        byte[] piece = new byte[65_536];
        long length = 0;
        for (int read; (read = body.read(piece)) >= 0; length += read) hash.update(piece, 0, read);
        String[] parts = exchange.getRequestURI().getRawPath().split("/");
        String what = parts.length > 1 ? parts[1] : "";
        int number = parts.length > 2 && !what.equals("echo") ? Integer.parseInt(parts[2]) : 0;
        Headers headers = exchange.getResponseHeaders();
        switch (what) {
            case "echo" -> {
                headers.set("content-type", "application/json");
                reply(exchange, 200, echo(exchange, length, hash.digest()));
            }
            case "bytes" -> {
                headers.set("content-type", "application/octet-stream");
                reply(exchange, 200, pattern(number));
            }
            case "stream" -> {
                headers.set("content-type", "application/octet-stream");
                stream(exchange, number);
            }
            case "status" -> {
                headers.set("location", "/elsewhere");
                headers.set("etag", "\"1\"");
                headers.set("content-type", "text/plain");
                reply(exchange, number, text("this is " + number + "\n"));
            }
            case "fields" -> {
                headers.add("set-cookie", "a=1; Path=/");
                headers.add("set-cookie", "b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT");
                headers.add("vary", "accept");
                headers.add("vary", "cookie");
                headers.set("x-empty", "");
                headers.set("x-long", "long ".repeat(1000) + "end");
                headers.set("content-type", "text/plain; charset=utf-8");
                reply(exchange, 200, text("fields\n"));
            }
            default -> reply(exchange, 404, text("no such thing\n"));
        }
    }

    public static void main(String[] arguments) throws Exception {
        // Head and body go in packets of their own: without this the second waits 40 ms for the first one's acknowledgement.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[0])), 128);
        server.createContext("/", exchange -> {
            try (exchange) {
                answer(exchange);
            } catch (IOException error) {
                throw error;
            } catch (Exception error) {
                throw new IOException(error);
            }
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
