//! Background work: one row for each thing to do, which whoever does it may do twice.

use core::time::Duration;

use coterie_model::UnixTime;

use crate::row::{Row, stored, stored_time};
use crate::{Read, StoreError, Write};

/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What kind of work.
    pub kind: String,
    /// On what.
    pub subject: String,
    /// When it is to be done, or done again.
    pub due: UnixTime,
    /// How often it was tried, a claim that is held included.
    pub attempts: u32,
    /// Until when somebody has claimed it.
    pub claimed_until: Option<UnixTime>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    asked: u64,
}

/// What became of a task that was reported done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It is gone.
    Done,
    /// It was asked for again meanwhile, and stays to be done once more.
    AskedAgain,
    /// The claim had run out, and somebody else has it, or is done.
    Lost,
}

impl Task {
    /// When to try again after this attempt failed at `now`: after 2 s, 4 s, 8 s and so on, up to an hour.
    #[must_use]
    pub fn next_attempt(&self, now: UnixTime) -> UnixTime {
        let seconds = 1_u64.checked_shl(self.attempts).unwrap_or(u64::MAX);
        now.plus(Duration::from_secs(seconds).min(LONGEST_PAUSE))
    }
}

impl Read {
    /// All tasks, the first due first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tasks(&mut self) -> Result<Vec<Task>, StoreError> {
        let query = sqlx::query("SELECT * FROM tasks ORDER BY due, kind, subject");
        self.all("reading tasks", query).await?.iter().map(task).collect()
    }

    /// When the next task is due that nobody has claimed, or a claim runs out; `None`: there is nothing to do.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_task(&mut self) -> Result<Option<UnixTime>, StoreError> {
        let query =
            sqlx::query("SELECT min(CASE WHEN claimed_until > due THEN claimed_until ELSE due END) AS next FROM tasks");
        let row = self.optional("reading tasks", query).await?;
        Ok(row.map(|row| row.time_or_none("next")).transpose()?.flatten())
    }
}

impl Write {
    /// Asks for something to be done at `due`. When it is asked for already, it is done once, at the earlier time; when
    /// somebody is at it, once more after that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ask_task(&mut self, kind: &str, subject: &str, due: UnixTime) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO tasks (kind, subject, due, asked, attempts, claimed_until, last_error) \
             VALUES ($1, $2, $3, 1, 0, NULL, NULL) ON CONFLICT (kind, subject) DO UPDATE SET asked = tasks.asked + 1, \
             due = CASE WHEN excluded.due < tasks.due THEN excluded.due ELSE tasks.due END",
        )
        .bind(kind)
        .bind(subject)
        .bind(stored_time(due)?);
        self.execute("asking for a task", query).await?;
        Ok(())
    }

    /// Has something done at `due`, in the place of whatever was asked of it before: for who does it now, in the transaction
    /// that does it. Whoever has claimed it has nothing more to do.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_task(&mut self, kind: &str, subject: &str, due: UnixTime) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO tasks (kind, subject, due, asked, attempts, claimed_until, last_error) \
             VALUES ($1, $2, $3, 1, 0, NULL, NULL) ON CONFLICT (kind, subject) DO UPDATE SET asked = tasks.asked + 1, \
             due = excluded.due, attempts = 0, claimed_until = NULL, last_error = NULL",
        )
        .bind(kind)
        .bind(subject)
        .bind(stored_time(due)?);
        self.execute("setting a task", query).await?;
        Ok(())
    }

    /// Takes back all claims: for a process that begins, because whoever had them is gone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_tasks(&mut self) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE tasks SET claimed_until = NULL WHERE claimed_until IS NOT NULL");
        self.execute("taking back claims", query).await?;
        Ok(())
    }

    /// Claims up to `limit` tasks that are due until `now + lease`; after that they are anybody's again, so a process that
    /// is killed leaves nothing undone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_tasks(&mut self, now: UnixTime, lease: Duration, limit: u32) -> Result<Vec<Task>, StoreError> {
        let query = sqlx::query(
            "UPDATE tasks SET claimed_until = $1, attempts = attempts + 1 WHERE (kind, subject) IN \
             (SELECT kind, subject FROM tasks WHERE due <= $2 AND (claimed_until IS NULL OR claimed_until <= $2) \
             ORDER BY due, kind, subject LIMIT $3) RETURNING *",
        )
        .bind(stored_time(now.plus(lease))?)
        .bind(stored_time(now)?)
        .bind(i64::from(limit));
        let rows = self.returning_all("claiming tasks", query).await?;
        let mut tasks: Vec<Task> = rows.iter().map(task).collect::<Result<_, _>>()?;
        tasks.sort_by(|a, b| (a.due, &a.kind, &a.subject).cmp(&(b.due, &b.kind, &b.subject)));
        Ok(tasks)
    }

    /// Reports a claimed task done.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_task(&mut self, task: &Task) -> Result<Finished, StoreError> {
        const DOING: &str = "finishing a task";
        let query = sqlx::query("DELETE FROM tasks WHERE kind = $1 AND subject = $2 AND attempts = $3 AND asked = $4")
            .bind(&task.kind)
            .bind(&task.subject)
            .bind(i64::from(task.attempts))
            .bind(stored("a number", task.asked)?);
        if self.execute(DOING, query).await? > 0 {
            return Ok(Finished::Done);
        }
        let query = sqlx::query(
            "UPDATE tasks SET claimed_until = NULL, attempts = 0, last_error = NULL \
             WHERE kind = $1 AND subject = $2 AND attempts = $3",
        )
        .bind(&task.kind)
        .bind(&task.subject)
        .bind(i64::from(task.attempts));
        match self.execute(DOING, query).await? {
            0 => Ok(Finished::Lost),
            _ => Ok(Finished::AskedAgain),
        }
    }

    /// Puts a claimed task off after an attempt that failed; false when the claim had run out and somebody else has it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_off_task(&mut self, task: &Task, error: &str, due: UnixTime) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "UPDATE tasks SET claimed_until = NULL, due = $1, last_error = $2 \
             WHERE kind = $3 AND subject = $4 AND attempts = $5",
        )
        .bind(stored_time(due)?)
        .bind(error)
        .bind(&task.kind)
        .bind(&task.subject)
        .bind(i64::from(task.attempts));
        Ok(self.execute("putting a task off", query).await? > 0)
    }
}

fn task(row: &Row) -> Result<Task, StoreError> {
    Ok(Task {
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        due: row.time("due")?,
        attempts: row.small("attempts")?,
        claimed_until: row.time_or_none("claimed_until")?,
        last_error: row.text_or_none("last_error")?,
        asked: row.number("asked")?,
    })
}
