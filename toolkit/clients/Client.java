import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;

/** java.net.http, which tries to upgrade each connection to HTTP/2 by default. Run as `java Client.java TASK`. */
public class Client {
    static final String SERVER = System.getenv("CLIENT_SERVER");
    static final String DOCUMENT = "{\"inputs\": \"I like you\"}";

    interface Call {
        void run() throws Exception;
    }

    static String task;

    static void check(String of, String name, Call call) {
        if (!of.equals(task)) {
            return;
        }
        String outcome = "passed";
        String reason = "";
        try {
            call.run();
        } catch (Exception | AssertionError problem) {
            outcome = "failed";
            reason = problem.toString().replaceAll("\\s+", " ");
        }
        System.out.println(outcome + "\t" + name + "\t" + reason);
    }

    static void require(boolean holds, String message) {
        if (!holds) {
            throw new AssertionError(message);
        }
    }

    static HttpRequest.Builder post(HttpRequest.BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(SERVER + "/invocations"))
            .timeout(Duration.ofSeconds(60))
            .header("Content-Type", "application/json")
            .POST(body);
    }

    static HttpResponse<String> send(HttpClient client, HttpRequest.Builder request) throws IOException, InterruptedException {
        return client.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    static void requireLabel(HttpResponse<String> answer) {
        require(answer.statusCode() == 200, answer.statusCode() + " " + answer.body());
        require(answer.body().contains("\"label\""), answer.body());
    }

    public static void main(String[] words) throws Exception {
        task = words[0];
        HttpClient upgrading = HttpClient.newHttpClient();
        HttpClient plain = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        check("text-classification", "default client (Upgrade: h2c)", () -> {
            for (int turn = 0; turn < 3; turn++) {
                requireLabel(send(upgrading, post(HttpRequest.BodyPublishers.ofString(DOCUMENT))));
            }
        });
        check("text-classification", "HTTP/1.1 client", () -> requireLabel(send(plain, post(HttpRequest.BodyPublishers.ofString(DOCUMENT)))));
        check("text-classification", "chunked body", () -> {
            byte[] bytes = DOCUMENT.getBytes("UTF-8");
            for (HttpClient client : List.of(plain, upgrading)) {
                requireLabel(send(client, post(HttpRequest.BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(bytes)))));
            }
        });
        check("text-classification", "Expect: 100-continue", () -> requireLabel(send(plain, post(HttpRequest.BodyPublishers.ofString(DOCUMENT)).expectContinue(true))));
        check("text-classification", "Expect: 100-continue with Upgrade", () -> requireLabel(send(upgrading, post(HttpRequest.BodyPublishers.ofString(DOCUMENT)).expectContinue(true))));
        check("text-classification", "errors keep the connection usable", () -> {
            HttpResponse<String> error = send(plain, post(HttpRequest.BodyPublishers.ofString("{\"inptus\": 1}")));
            require(error.statusCode() == 400 && error.body().contains("inptus"), error.statusCode() + " " + error.body());
            requireLabel(send(plain, post(HttpRequest.BodyPublishers.ofString(DOCUMENT))));
        });
        check("text-classification", "a body that is too large is answered", () -> {
            byte[] large = new byte[30 * 1024 * 1024];
            HttpResponse<String> error = send(plain, post(HttpRequest.BodyPublishers.ofByteArray(large)));
            require(error.statusCode() == 413, error.statusCode() + " " + error.body());
        });
        check("text-classification", "32 asynchronous requests", () -> {
            List<CompletableFuture<HttpResponse<String>>> answers = new ArrayList<>();
            for (int number = 0; number < 32; number++) {
                answers.add(upgrading.sendAsync(post(HttpRequest.BodyPublishers.ofString(DOCUMENT)).build(), HttpResponse.BodyHandlers.ofString()));
            }
            for (CompletableFuture<HttpResponse<String>> answer : answers) {
                requireLabel(answer.get());
            }
        });
        check("text-classification", "GET /ping", () -> {
            HttpRequest request = HttpRequest.newBuilder(URI.create(SERVER + "/ping")).build();
            require(upgrading.send(request, HttpResponse.BodyHandlers.discarding()).statusCode() == 200, "not 200");
        });
        check("text-generation", "a stream line by line", () -> {
            String body = "{\"inputs\": \"I like\", \"parameters\": {\"max_new_tokens\": 6}, \"stream\": true}";
            HttpResponse<java.util.stream.Stream<String>> answer = upgrading.send(post(HttpRequest.BodyPublishers.ofString(body)).build(), HttpResponse.BodyHandlers.ofLines());
            List<String> events = answer.body().filter(line -> line.startsWith("data:")).collect(Collectors.toList());
            require(answer.statusCode() == 200 && events.size() > 1, answer.statusCode() + " " + events);
            require(events.get(events.size() - 1).contains("generated_text"), events.toString());
        });
        check("image-classification", "an image from a file", () -> {
            HttpRequest.BodyPublisher body = HttpRequest.BodyPublishers.ofFile(Path.of(System.getenv("CLIENT_MEDIA"), "image.png"));
            requireLabel(send(upgrading, post(body).setHeader("Content-Type", "image/png")));
        });
    }
}
