import evaluation.EvaluatorTask1b;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;

/**
 * Runs the evaluator, ours or the organizers', on many pairs of files in one process: one line
 * "golden file, tab, answer file" in, one line out, with its figures or why it stopped.
 */
public class Many {
    private static Throwable logged;

    public static void main(String[] args) throws Exception {
        Logger root = Logger.getLogger("");
        for (Handler handler : root.getHandlers()) {
            root.removeHandler(handler);
        }
        root.addHandler(new Handler() {
            @Override public void publish(LogRecord record) {
                logged = record.getThrown();
            }
            @Override public void flush() { }
            @Override public void close() { }
        });
        PrintStream out = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] files = line.split("\t");
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            System.setOut(new PrintStream(said, true, "UTF-8"));
            logged = null;
            try {
                EvaluatorTask1b.main(new String[] {"-phaseB", "-e", "5", files[0], files[1]});
            } catch (RuntimeException error) {
                logged = error;
            }
            String result = logged == null ? said.toString("UTF-8") : "stopped: " + logged;
            out.println(result.replace('\n', ' '));
            out.flush();
        }
    }
}
