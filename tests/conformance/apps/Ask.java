// A client of the matrix on Java's HttpClient: Ask.java VERSION URL SCENARIOS prints what came of each, as a line of
// JSON. VERSION is a name of HttpClient.Version; with HTTP_2, its default, it asks a plain server for that by `Upgrade: h2c`.
import com.google.gson.Gson;
import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;

public class Ask {
    record Scenario(String name, String method, String path, Map<String, String> headers, Integer body, boolean streamed) {}

    static BodyPublisher body(Scenario scenario) {
        if (scenario.body() == null) return BodyPublishers.noBody();
        byte[] pattern = new byte[scenario.body()];
        for (int i = 0; i < pattern.length; i++) pattern[i] = (byte) (i % 251);
        if (scenario.streamed()) return BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(pattern));
        return BodyPublishers.ofByteArray(pattern);
    }

    static Map<String, Object> ask(HttpClient client, String url, Scenario scenario) throws Exception {
        Map<String, Object> told = new LinkedHashMap<>();
        told.put("name", scenario.name());
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url + scenario.path()))
            .timeout(Duration.ofSeconds(30))
            .method(scenario.method(), body(scenario));
        scenario.headers().forEach(request::header);
        HttpResponse<byte[]> response;
        try {
            response = client.send(request.build(), BodyHandlers.ofByteArray());
        } catch (java.io.IOException error) {
            told.put("error", error.toString());
            return told;
        }
        Map<String, String> headers = new LinkedHashMap<>();
        response.headers().map().forEach((name, values) -> headers.put(name.toLowerCase(), String.join(", ", values)));
        byte[] content = response.body();
        told.put("status", response.statusCode());
        told.put("version", response.version().toString());
        told.put("headers", headers);
        told.put("length", content.length);
        if (content.length < 4096) {
            told.put("text", new String(content, StandardCharsets.ISO_8859_1));
        } else {
            told.put("sha256", HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content)));
        }
        return told;
    }

    public static void main(String[] arguments) throws Exception {
        Gson gson = new Gson();
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(arguments[0])).build();
        // Gson makes records only from 2.10 on: the fields are taken one by one.
        for (Map<?, ?> one : gson.fromJson(Files.readString(Path.of(arguments[2])), Map[].class)) {
            Number body = (Number) one.get("body");
            Map<String, String> headers = new LinkedHashMap<>();
            ((Map<?, ?>) one.get("headers")).forEach((name, value) -> headers.put((String) name, (String) value));
            Scenario scenario = new Scenario((String) one.get("name"), (String) one.get("method"), (String) one.get("path"),
                headers, body == null ? null : body.intValue(), one.get("streamed") == Boolean.TRUE);
            System.out.println(gson.toJson(ask(client, arguments[1], scenario)));
        }
        // The client's threads would keep the process for a while.
        System.exit(0);
    }
}
