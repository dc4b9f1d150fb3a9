import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.HttpURLConnection;
import java.net.URI;

/** Java's own HttpsURLConnection: a POST whose answer streams. */
public class UseHttpsUrlConnection {
    public static void main(String[] arguments) throws Exception {
        var url = URI.create("https://api.openai.com/v1/chat/completions").toURL();
        var connection = (HttpURLConnection) url.openConnection();
        connection.setRequestMethod("POST");
        connection.setRequestProperty("content-type", "application/json");
        connection.setDoOutput(true);
        connection.getOutputStream().write("{\"model\":\"gpt-5\",\"stream\":true,\"messages\":[]}".getBytes());
        try (var lines = new BufferedReader(new InputStreamReader(connection.getInputStream()))) {
            for (String line; (line = lines.readLine()) != null; ) {
                if (!line.isEmpty()) System.out.println("part: " + line);
            }
        }
    }
}
